/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A client of domwardd in C, written from docs/control-protocol.md alone:
 *
 *     control_client SOCKET run DISK        prints each step, then sizes, hash and command line; kernel to stdout's end
 *     control_client SOCKET list            prints each operation's id, state and outcome
 *     control_client SOCKET cancel OP
 *
 * Exit code: 0, the error's exit_code, or 99 where the daemon does not keep to the page.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { LARGEST = 65536, MOST_FDS = 8 };

static void die(const char *what)
{
    fprintf(stderr, "control_client: %s\n", what);
    exit(99);
}

/* --- MessagePack, as much of it as the page has ------------------------------------------------------------- */

struct out { unsigned char bytes[LARGEST]; size_t size; };

static void put(struct out *o, const void *bytes, size_t size)
{
    if (o->size + size > sizeof o->bytes) die("message too long");
    memcpy(o->bytes + o->size, bytes, size);
    o->size += size;
}

static void put_byte(struct out *o, unsigned byte) { unsigned char b = (unsigned char)byte; put(o, &b, 1); }

static void put_str(struct out *o, const char *text)
{
    size_t size = strlen(text);
    if (size < 32) {
        put_byte(o, 0xa0 | (unsigned)size);
    } else {
        put_byte(o, 0xda);
        put_byte(o, (unsigned)(size >> 8));
        put_byte(o, (unsigned)(size & 0xff));
    }
    put(o, text, size);
}

static void put_int(struct out *o, int64_t value)
{
    if (value >= 0 && value < 128) {
        put_byte(o, (unsigned)value);
        return;
    }
    put_byte(o, 0xd3);
    for (int shift = 56; shift >= 0; shift -= 8) put_byte(o, (unsigned)((uint64_t)value >> shift) & 0xff);
}

static void field_str(struct out *o, const char *key, const char *value) { put_str(o, key); put_str(o, value); }
static void field_int(struct out *o, const char *key, int64_t value) { put_str(o, key); put_int(o, value); }
static void field_nil(struct out *o, const char *key) { put_str(o, key); put_byte(o, 0xc0); }
static void field_empty(struct out *o, const char *key) { put_str(o, key); put_byte(o, 0x90); } /* an array of none */
static void field_bool(struct out *o, const char *key, int value) { put_str(o, key); put_byte(o, value ? 0xc3 : 0xc2); }

static void begin(struct out *o, unsigned fields, const char *type, int64_t request)
{
    o->size = 0;
    put_byte(o, 0xde); /* map 16: any number of pairs */
    put_byte(o, 0);
    put_byte(o, fields + 2);
    field_str(o, "type", type);
    field_int(o, "request", request);
}

struct value { enum { NIL, BOOL, INT, STR, BIN } kind; int64_t number; const unsigned char *bytes; size_t size; };
struct in { const unsigned char *at, *end; };

static uint64_t take(struct in *i, int count)
{
    uint64_t value = 0;
    if (i->end - i->at < count) die("a message that ends too early");
    while (count--) value = value << 8 | *i->at++;
    return value;
}

static struct value take_value(struct in *i)
{
    unsigned first = (unsigned)take(i, 1);
    struct value v = {NIL, 0, NULL, 0};
    if (first < 0x80) { v.kind = INT; v.number = first; return v; }
    if (first >= 0xe0) { v.kind = INT; v.number = (int8_t)first; return v; }
    switch (first) {
    case 0xc0: return v;
    case 0xc2: case 0xc3: v.kind = BOOL; v.number = first == 0xc3; return v;
    case 0xcc: case 0xcd: case 0xce: case 0xcf:
        v.kind = INT; v.number = (int64_t)take(i, 1 << (first - 0xcc)); return v;
    case 0xd0: v.kind = INT; v.number = (int8_t)take(i, 1); return v;
    case 0xd1: v.kind = INT; v.number = (int16_t)take(i, 2); return v;
    case 0xd2: v.kind = INT; v.number = (int32_t)take(i, 4); return v;
    case 0xd3: v.kind = INT; v.number = (int64_t)take(i, 8); return v;
    case 0xc4: case 0xc5: case 0xc6: v.kind = BIN; v.size = take(i, 1 << (first - 0xc4)); break;
    case 0xd9: case 0xda: case 0xdb: v.kind = STR; v.size = take(i, 1 << (first - 0xd9)); break;
    default:
        if (first < 0xa0 || first > 0xbf) die("a type that the page does not have");
        v.kind = STR;
        v.size = first & 0x1f;
    }
    if ((size_t)(i->end - i->at) < v.size) die("a value that ends too early");
    v.bytes = i->at;
    i->at += v.size;
    return v;
}

/* --- messages ------------------------------------------------------------------------------------------------ */

struct message { unsigned char bytes[LARGEST]; size_t size; int fds[MOST_FDS]; int fd_count; };

static struct value get(const struct message *m, const char *key)
{
    struct in i = {m->bytes, m->bytes + m->size};
    unsigned first = (unsigned)take(&i, 1);
    size_t pairs = 0;
    if (first >= 0x80 && first <= 0x8f) pairs = first & 0x0f;
    else if (first == 0xde) pairs = take(&i, 2);
    else die("a message that is no map");
    while (pairs--) {
        struct value k = take_value(&i), v = take_value(&i);
        if (k.kind == STR && k.size == strlen(key) && !memcmp(k.bytes, key, k.size)) return v;
    }
    die(key);
    exit(99);
}

static int is(const struct message *m, const char *type)
{
    struct value v = get(m, "type");
    return v.kind == STR && v.size == strlen(type) && !memcmp(v.bytes, type, v.size);
}

static void show(const struct message *m, const char *key)
{
    struct value v = get(m, key);
    if (v.kind == INT || v.kind == BOOL) printf("%s=%lld\n", key, (long long)v.number);
    else printf("%s=%.*s\n", key, (int)v.size, (const char *)v.bytes);
}

static void send_message(int end, const struct out *o, int fd)
{
    union { struct cmsghdr align; char bytes[CMSG_SPACE(sizeof(int))]; } control;
    struct iovec data = {(void *)o->bytes, o->size};
    struct msghdr header = {.msg_iov = &data, .msg_iovlen = 1};
    memset(&control, 0, sizeof control);
    if (fd >= 0) {
        header.msg_control = &control;
        header.msg_controllen = sizeof control.bytes;
        struct cmsghdr *c = CMSG_FIRSTHDR(&header);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(c), &fd, sizeof fd);
    }
    if (sendmsg(end, &header, MSG_NOSIGNAL) != (ssize_t)o->size) die("sendmsg");
}

static void receive(int end, struct message *m)
{
    union { struct cmsghdr align; char bytes[CMSG_SPACE(MOST_FDS * sizeof(int))]; } control;
    struct iovec data = {m->bytes, sizeof m->bytes};
    struct msghdr header = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control,
                            .msg_controllen = sizeof control.bytes};
    ssize_t size = recvmsg(end, &header, MSG_CMSG_CLOEXEC);
    if (size <= 0) die("the connection ended");
    if (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) die("a message was cut");
    m->size = (size_t)size;
    m->fd_count = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        m->fd_count = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(m->fds, CMSG_DATA(c), (size_t)m->fd_count * sizeof(int));
    }
    if (is(m, "error")) {
        show(m, "code");
        show(m, "sentence");
        exit((int)get(m, "exit_code").number);
    }
}

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int end = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (end < 0 || strlen(path) >= sizeof address.sun_path) die("socket");
    strcpy(address.sun_path, path);
    if (connect(end, (struct sockaddr *)&address, sizeof address)) die("connect");
    return end;
}

static struct out request;
static struct message answer;

static void run(int end, const char *path)
{
    int disk = open(path, O_RDONLY | O_CLOEXEC);
    if (disk < 0) die("the disk cannot be opened");
    begin(&request, 20, "run", 2);
    field_nil(&request, "path");
    field_nil(&request, "entry");
    field_nil(&request, "args");
    field_nil(&request, "extra");
    field_nil(&request, "kernel");
    field_nil(&request, "ramdisk");
    field_int(&request, "offset", -1);
    field_nil(&request, "image_format");
    field_str(&request, "bootloader", "builtin");
    field_empty(&request, "bootloader_args");
    field_int(&request, "seconds", 0);
    field_bool(&request, "console", 0);
    field_int(&request, "columns", 80);
    field_int(&request, "rows", 24);
    field_int(&request, "menu_timeout", -1);
    field_bool(&request, "may_skip_menu", 0);
    field_str(&request, "label", "from C");
    field_int(&request, "domid", -1);
    field_nil(&request, "uuid");
    field_bool(&request, "detached", 0);
    send_message(end, &request, disk);
    close(disk);
    for (receive(end, &answer); !is(&answer, "completed"); receive(end, &answer)) {
        if (is(&answer, "started")) show(&answer, "operation");
        else if (is(&answer, "step")) show(&answer, "step");
        else die("a message that the page does not have here");
    }
    if (get(&answer, "request").number != 2 || answer.fd_count != 2) die("what completed was not what was asked for");
    show(&answer, "title");
    show(&answer, "args");
    show(&answer, "kernel_sha256");
    struct stat found;
    for (int place = 0; place < answer.fd_count; place++) {
        if (fstat(answer.fds[place], &found)) die("fstat");
        printf("file=%lld\n", (long long)found.st_size);
    }
    if (get(&answer, "ramdisk_bytes").number != (int64_t)found.st_size) die("a ramdisk of another size");
}

static void list(int end)
{
    begin(&request, 1, "list", 3);
    field_bool(&request, "finished", 1);
    send_message(end, &request, -1);
    for (receive(end, &answer); !is(&answer, "end"); receive(end, &answer)) {
        show(&answer, "operation");
        show(&answer, "state");
        show(&answer, "outcome");
        show(&answer, "label");
    }
}

static void cancel(int end, const char *operation)
{
    begin(&request, 1, "cancel", 4);
    field_str(&request, "operation", operation);
    send_message(end, &request, -1);
    receive(end, &answer);
    if (!is(&answer, "end")) die("no end");
}

int main(int count, char **words)
{
    if (count < 3) die("usage");
    int end = connect_to(words[1]);
    begin(&request, 2, "hello", 1);
    field_int(&request, "version", 1);
    field_str(&request, "client", "control_client");
    send_message(end, &request, -1);
    receive(end, &answer);
    if (!is(&answer, "welcome") || get(&answer, "version").number != 1) die("no welcome");
    show(&answer, "role");
    if (!strcmp(words[2], "run") && count == 4) run(end, words[3]);
    else if (!strcmp(words[2], "list")) list(end);
    else if (!strcmp(words[2], "cancel") && count == 4) cancel(end, words[3]);
    else die("usage");
    return 0;
}
