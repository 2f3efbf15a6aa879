# Entry of a static program without a C library, and the one call that C cannot spell.

	.section .text
	.globl _start
_start:
	.option push
	.option norelax
	lla	gp, __global_pointer$
	.option pop
	mv	a0, sp			# argc, argv, NULL, envp: the System V start block
	andi	sp, sp, -16
	call	agent_main
	li	a7, 94			# exit_group, with what agent_main returned
	ecall

# long spawn_vfork(void (*fn)(void *), void *arg, void *stack_top)
#
# clone(CLONE_VM | CLONE_VFORK | SIGCHLD) on a stack of the child's own: no page table is copied, and the
# caller sleeps until the child has called execve or exit, so a word in memory tells it whether that
# worked. fn does not return.
	.globl spawn_vfork
spawn_vfork:
	addi	a2, a2, -16
	sd	a0, 0(a2)
	sd	a1, 8(a2)
	li	a0, 0x4111
	mv	a1, a2
	li	a2, 0
	li	a3, 0
	li	a4, 0
	li	a7, 220
	ecall
	bnez	a0, 1f
	ld	a5, 0(sp)
	ld	a0, 8(sp)
	jalr	a5
1:	ret

	.section .note.GNU-stack, "", @progbits
