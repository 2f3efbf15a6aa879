/** Rules of the machine that a test may switch off, to see what they are for. All off in production. */
export type MachineBreaks = {
  /** V-56, T-DN-03: a manager forgets what its guest gave away, and fills it from the source again. */
  forgetRemoved: boolean;
  /** A runner looks whether its guest is paused before it says that it runs it. */
  lookBeforeActive: boolean;
  /** Who pauses a guest does not wait until its runners have left. */
  pauseWithoutWait: boolean;
  /** A machine that ends frees its vCPUs while they are told to pause. */
  freeWhileTelling: boolean;
};
