/* The blob of all kernels; SPARSESAM_KERNELS is its path. */
        .section .rodata
        .global sparsesam_kernels
        .hidden sparsesam_kernels
        .balign 64
sparsesam_kernels:
        .incbin SPARSESAM_KERNELS
        .section .note.GNU-stack, "", @progbits
