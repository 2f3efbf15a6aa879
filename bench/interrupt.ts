const INTERRUPTED = 130;
const actions = new Set<() => void>();

function interrupted(): void {
  for (const action of actions) action();
  process.exit(INTERRUPTED);
}

/** What is to be ended or removed if the bench is interrupted. Returns how to forget it. */
export function atInterrupt(action: () => void): () => void {
  if (actions.size === 0) process.on('SIGINT', interrupted).on('SIGTERM', interrupted);
  actions.add(action);
  return () => {
    actions.delete(action);
    if (actions.size === 0) process.off('SIGINT', interrupted).off('SIGTERM', interrupted);
  };
}
