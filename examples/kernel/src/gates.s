# The entries of exceptions and interrupts. Each runs on an interrupt stack of its own, because compiled code keeps data
# below the stack pointer; saves all registers, those of SSE too; and calls its handler with a pointer to them.

    .macro gate name, handler, has_code
    .globl \name
\name:
    .if \has_code == 0
    push $0
    .endif
    push %rax
    push %rbx
    push %rcx
    push %rdx
    push %rsi
    push %rdi
    push %rbp
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, %rdi
    mov %rsp, %rbp
    sub $512, %rsp
    and $-16, %rsp
    fxsave (%rsp)
    cld
    call \handler
    fxrstor (%rsp)
    mov %rbp, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rbp
    pop %rdi
    pop %rsi
    pop %rdx
    pop %rcx
    pop %rbx
    pop %rax
    add $8, %rsp
    iretq
    .endm

    .section .text
    gate gate_step, on_step, 0
    gate gate_unmaskable, on_unmaskable, 0
    gate gate_timer, on_timer, 0
    gate gate_fence, on_fence, 0
    gate gate_spurious, on_spurious, 0

# Exceptions that end the kernel: the number goes where the error code's place is free, or beside it.
    .altmacro
    .macro fatal number, has_code
    .globl gate_fatal_\number
gate_fatal_\number:
    .if \has_code == 0
    push $0
    .endif
    push $\number
    mov %rsp, %rdi
    and $-16, %rsp
    call on_fatal
    .endm
    fatal 0, 0
    fatal 3, 0
    fatal 4, 0
    fatal 6, 0
    fatal 7, 0
    fatal 8, 1
    fatal 10, 1
    fatal 11, 1
    fatal 12, 1
    fatal 13, 1
    fatal 14, 1
    fatal 16, 0
    fatal 17, 1
    fatal 19, 0
