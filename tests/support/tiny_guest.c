/* SPDX-License-Identifier: GPL-3.0-or-later
 * A guest for tests that boots in a moment: a PVH kernel (xen/include/public/arch-x86/hvm/start_info.h) on the serial
 * port. It says "ready", its ramdisk's size and its command line, and then does what each line that is typed says.
 */
typedef unsigned int u32;
typedef unsigned long long u64;

struct start_info { u32 magic, version, flags, modules; u64 module_list, command_line; };
struct module { u64 address, size, command_line, reserved; };

static unsigned char in(unsigned short port) { unsigned char v; __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static void out(unsigned short port, unsigned char v) { __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port)); }
static void out16(unsigned short port, unsigned short v) { __asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port)); }

static void put(char c) { while (!(in(0x3fd) & 0x20)); out(0x3f8, c); }
static void say(const char *text) { while (*text) put(*text++); }
static void number(u32 value) { if (value > 9) number(value / 10); put('0' + value % 10); }
static int same(const char *a, const char *b) { while (*a && *a == *b) a++, b++; return *a == *b; }

static void power_off(void) { out16(0x604, 0x2000); }  /* ACPI's PM1a control block of q35: soft off */
static void reboot(void) { out(0xcf9, 6); }
static void panic(void) { out(0x505, 1); }  /* pvpanic */

void guest(struct start_info *info)
{
    const char *command_line = (const char *)(u32)info->command_line;
    say("ready ");
    number(info->modules ? (u32)((struct module *)(u32)info->module_list)->size : 0);
    say(" ");
    say(command_line);
    say("\n");
    /* What the command line ends with is done at once. */
    char line[64] = "";
    for (const char *at = command_line; *at; at++)
        if (same(at, "then=poweroff console=ttyS0")) power_off();
        else if (same(at, "then=reboot console=ttyS0")) reboot();
        else if (same(at, "then=panic console=ttyS0")) panic();
    for (;;) {
        int length = 0;
        for (;;) {
            while (!(in(0x3fd) & 1));
            char c = in(0x3f8);
            if (c == '\n' || c == '\r') break;
            if (length < 63) line[length++] = c;
        }
        line[length] = 0;
        if (same(line, "poweroff")) power_off();
        if (same(line, "reboot")) reboot();
        if (same(line, "panic")) panic();
        if (same(line, "flood")) for (;;) say("all work and no play makes a guest a noisy one\n");
        say("heard ");
        say(line);
        say("\n");
    }
}

__asm__(".section .note.Xen, \"a\", @note\n"
        ".long 4, 4, 18\n.asciz \"Xen\"\n.long start\n" /* XEN_ELFNOTE_PHYS32_ENTRY */
        ".text\n.globl start\nstart:\n  mov $stack + 8192, %esp\n  push %ebx\n  call guest\n"
        ".bss\n.align 16\nstack: .skip 8192\n.text\n");
