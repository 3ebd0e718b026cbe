# From where the machine hands over to Rust: the first CPU through the PVH entry, the others through a start-up interrupt.
#
# Memory is mapped twice by the same tables, in pages of 2 MiB: at its own address, where the kernel runs, and at the direct
# map's offset, where the allocators see it. 64 GiB are mapped; what lies beyond is clipped from the memory map.

    .set PRESENT_WRITE, 3
    .set LARGE, 0x80
    .set DIRECTORIES, 64
    .set AP_BASE, 0x8000
    .set STACK_BYTES, 65536

# Where QEMU enters: the type is XEN_ELFNOTE_PHYS32_ENTRY.
    .section .note.pvh, "a", @note
    .align 4
    .long 4
    .long 8
    .long 18
    .asciz "Xen"
    .quad pvh_start

    .section .text.boot, "ax"
    .code32
    .globl pvh_start
# 32-bit protected mode, no paging; ebx points to the start info.
pvh_start:
    cli
    cld
    mov $boot_directories, %edi
    mov $(PRESENT_WRITE | LARGE), %eax
    xor %edx, %edx
    mov $(DIRECTORIES * 512), %ecx
1:  mov %eax, (%edi)
    mov %edx, 4(%edi)
    add $0x200000, %eax
    adc $0, %edx
    add $8, %edi
    dec %ecx
    jnz 1b
    mov $boot_pointers, %edi
    mov $(boot_directories + PRESENT_WRITE), %eax
    mov $DIRECTORIES, %ecx
2:  mov %eax, (%edi)
    add $4096, %eax
    add $8, %edi
    dec %ecx
    jnz 2b
    movl $(boot_pointers + PRESENT_WRITE), boot_tables
    movl $(boot_pointers + PRESENT_WRITE), boot_tables + 256 * 8
    call enable_long_mode
    lgdt boot_gdt_pointer
    ljmp $8, $start_64

# Page tables, SSE, long mode and paging; still in 32-bit code afterwards.
enable_long_mode:
    mov $boot_tables, %eax
    mov %eax, %cr3
    mov %cr4, %eax
    or $0x620, %eax             # PAE, OSFXSR, OSXMMEXCPT
    mov %eax, %cr4
    mov $0xc0000080, %ecx       # EFER
    rdmsr
    or $0x100, %eax             # LME
    wrmsr
    mov %cr0, %eax
    and $0xfffffffb, %eax       # no EM
    or $0x80010023, %eax        # PG, WP, NE, MP, PE
    mov %eax, %cr0
    ret

    .code64
start_64:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    lea boot_stack_end(%rip), %rsp
    mov %ebx, %edi
    xor %ebp, %ebp
    call kernel_main
3:  hlt
    jmp 3b

# What the other CPUs execute first, copied to AP_BASE: 16-bit real mode, cs = AP_BASE / 16.
    .code16
    .globl ap_code
    .globl ap_code_end
ap_code:
    cli
    xor %ax, %ax
    mov %ax, %ds
    lgdtl AP_BASE + (ap_gdt_pointer - ap_code)
    mov $0x11, %eax             # PE, ET
    mov %eax, %cr0
    ljmpl $24, $(AP_BASE + (ap_32 - ap_code))
    .code32
ap_32:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $(AP_BASE + 0x1000), %esp
    mov $enable_long_mode, %eax
    call *%eax
    ljmp $8, $ap_64
    .align 8
ap_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .long boot_gdt
ap_code_end:

    .code64
ap_64:
# CPUs are numbered in the order in which they arrive here; CPU 0 is the one that booted.
    mov $1, %edi
    lock xadd %edi, arrived_cpus(%rip)
    mov %edi, %eax
    imul $STACK_BYTES, %rax, %rax
    lea ap_stacks(%rip), %rsp
    add %rax, %rsp
    xor %ebp, %ebp
    call ap_main
4:  hlt
    jmp 4b

    .section .rodata
    .align 8
boot_gdt:
    .quad 0
    .quad 0x00af9a000000ffff    # 8: 64-bit code
    .quad 0x00cf92000000ffff    # 16: data
    .quad 0x00cf9a000000ffff    # 24: 32-bit code
boot_gdt_end:
boot_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .quad boot_gdt

    .section .data
    .align 4
    .globl arrived_cpus
arrived_cpus:
    .long 1

    .section .bss
    .align 4096
boot_tables:
    .skip 4096
boot_pointers:
    .skip 4096
boot_directories:
    .skip 4096 * DIRECTORIES
boot_stack:
    .skip STACK_BYTES
boot_stack_end:
ap_stacks:
    .skip STACK_BYTES * 8
