# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# A guest that is one sector long: it boots in half a second, counts, and obeys its power
# button, or does not. tinyguest.py builds it and puts it on a disk image.
#
# Four times a second it counts one more, writes the count into the second sector of its disk, and says so
# on its console: "T 0000002a". It goes on from the count that it finds there when it boots, so that a
# guest on a stale disk counts from an earlier number than it has said before.
#
# The power button, at once, after some seconds, at the second press, or never: ACPI's PM1 registers, where SeaBIOS puts them on both machine types (0x600), with
# S5 as sleep type 0 (hw/acpi/piix4.c and ich9.c in QEMU).

        .code16
        .globl _start
        .set    STATUS, 0x600
        .set    ENABLE, 0x602
        .set    CONTROL, 0x604
        .set    BUTTON, 0x100
        .set    SLEEP, 0x2000
        .set    SERIAL, 0x3f8
        .set    CLOCK, 0x46c
        .set    TICKS, 4
        .set    SECTOR, 0x7e00

_start: ljmp    $0, $begin
# To how many it counts before it goes down, 0xfffe until it is asked again, 0xffff for ever; at offset 6,
# where tinyguest.py writes it.
        .org    6
delay:  .word   0
begin:  xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0x7c00, %sp
        sti
        cld
        mov     %dl, drive
        mov     $ENABLE, %dx
        mov     $BUTTON, %ax
        out     %ax, %dx
        mov     $0x02, %ah
        call    disk
        mov     $ready, %si
        call    say
        mov     CLOCK, %ax
        mov     %ax, last
wait:   hlt
        mov     $STATUS, %dx
        in      %dx, %ax
        test    $BUTTON, %ax
        jz      1f
        mov     $BUTTON, %ax
        out     %ax, %dx
        incb    pressed
        mov     $power, %si
        call    say
        cmpw    $0xfffe, delay
        jne     1f
        cmpb    $2, pressed
        jae     off
1:      cmpb    $0, pressed
        je      2f
        cmpw    $0, delay
        je      off
2:      mov     CLOCK, %ax
        sub     last, %ax
        cmp     $TICKS, %ax
        jb      wait
        addw    $TICKS, last
        incl    SECTOR
        mov     $0x03, %ah
        call    disk
        mov     $tick, %si
        call    say
        mov     SECTOR, %ebx
        mov     $8, %cx
3:      rol     $4, %ebx
        mov     %bl, %al
        and     $0x0f, %al
        add     $'0', %al
        cmp     $'9', %al
        jbe     4f
        add     $('a' - '9' - 1), %al
4:      call    put
        loop    3b
        mov     $'\n', %al
        call    put
        cmpb    $0, pressed
        je      wait
        cmpw    $0xfffe, delay
        jae     wait
        decw    delay
        jmp     wait
off:    mov     $CONTROL, %dx
        mov     $SLEEP, %ax
        out     %ax, %dx
5:      hlt
        jmp     5b

# Read (ah=2) or write (ah=3) the second sector.
disk:   mov     $1, %al
        mov     $0x0002, %cx
        xor     %dh, %dh
        mov     drive, %dl
        mov     $SECTOR, %bx
        int     $0x13
        jc      6f
        ret
6:      mov     $broken, %si
        call    say
        ret

say:    lodsb
        test    %al, %al
        jz      7f
        call    put
        jmp     say
7:      ret

put:    push    %dx
        mov     $SERIAL, %dx
        out     %al, %dx
        pop     %dx
        ret

ready:  .asciz  "READY\n"
power:  .asciz  "POWER\n"
tick:   .asciz  "T "
broken: .asciz  "DISK\n"
drive:  .byte   0
pressed: .byte  0
last:   .word   0
        .org    510
        .word   0xaa55
