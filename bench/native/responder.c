/* The devices of the benches: answers for every 127.x.y.z what a book of recorded replies says, a fixed time after the
 * question. One epoll loop, so that what is measured is the client.
 *
 *     responder BOOK PORT:WIRE...        (WIRE: rpc, http, framed, modbus)
 *
 * The second byte of an address says which firmware a device runs, the last two which device of it. A device is awake
 * until a request that the book calls a stop arrives; from then on it answers as one asleep. On standard input it takes
 * "reset" (all awake and well), "ail" (from now on 5 % hang, 5 % refuse, 5 % are silent), "stopped" (how many were, and
 * were told that they are: of those that stay well, then of all; and how many stay well), "watts" (what all draw in truth) and "report": one line of
 * JSON with when (CLOCK_MONOTONIC, ns) each device was told to stop, when that was answered, and whether it is one of
 * those that stay well. bench/recorder.py writes the book. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MOST_FIRMWARES = 32, MOST_ENTRIES = 4096, MOST_FDS = 1 << 16, DEVICES = 1 << 16, LONGEST = 1 << 16, RING = 1 << 17 };
enum wire { RPC, HTTP, FRAMED, MODBUS };
enum ailment { WELL, HUNG, REFUSING, SILENT }; /* accepts and says nothing; resets every call; drops every packet */
enum { SPREAD = 37, PERCENT_OF_EACH = 5 };
static const char *const WIRES[] = {"rpc", "http", "framed", "modbus"};

struct entry { /* all needles in the request, blanks left out, case ignored: this is the answer */
    enum wire wire;
    int state; /* 0 awake, 1 asleep */
    int stops, starts;
    char *needles[4], *reply;
    size_t size;
};
struct firmware { struct entry *entries[MOST_ENTRIES]; int count, devices; double watts[2]; };
struct device { uint8_t asleep; int64_t told_ns, answered_ns; };
struct call { uint32_t generation; enum wire wire; int firmware, index, busy; size_t used; char *buffer; };
struct answer { int64_t due_ns; int fd; uint32_t generation; const struct entry *entry; int closes; uint64_t modbus; };

static struct firmware firmwares[MOST_FIRMWARES];
static struct device *devices[MOST_FIRMWARES];
static struct call calls[MOST_FDS];
static int listeners[MOST_FDS]; /* wire + 1 where the descriptor listens */
static struct answer ring[RING];
static uint32_t head, tail;
static int64_t delay_ns;
static int poller, timer, first_net, meter_noise;
static int are_ailing;
static unsigned long requests, unknown, dropped, stopped, well_stopped;

static int64_t now_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static void die(const char *what) { perror(what); exit(1); }

/* What a device would ail from: an equal part of each firmware, strewn over the addresses. */
static enum ailment ailment_of(int index) {
    int percent = index * SPREAD % 100;
    return percent < 3 * PERCENT_OF_EACH ? (enum ailment)(percent / PERCENT_OF_EACH + 1) : WELL;
}

static enum ailment ailment_now(const struct call *call) {
    return are_ailing && call->wire != MODBUS ? ailment_of(call->index) : WELL;
}

/* The kernel drops what comes for a silent device before the listener: not even a connection opens. The destination
 * stands in the network header, sixteen bytes in. */
static void drop_calls_to_the_silent(int listener) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)SKF_NET_OFF + 16),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xffff),
        BPF_STMT(BPF_ALU | BPF_MUL | BPF_K, SPREAD),
        BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, 100),
        BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, PERCENT_OF_EACH),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SILENT - 1, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    if (setsockopt(listener, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0) die("SO_ATTACH_FILTER");
}

static void ail(int begin) {
    for (int fd = 0; fd < MOST_FDS; fd++)
        if (listeners[fd] && listeners[fd] != MODBUS + 1) {
            if (begin) drop_calls_to_the_silent(fd);
            else if (are_ailing) setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &(int){0}, sizeof(int));
        }
    are_ailing = begin;
}

static void hang_up(int fd) {
    calls[fd].generation++;
    calls[fd].used = 0;
    close(fd);
}

static void refuse(int fd) {
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
    hang_up(fd);
}

static char *squeezed(const char *text, size_t size) {
    static char out[LONGEST + 1];
    size_t n = 0;
    for (size_t i = 0; i < size && n < LONGEST; i++)
        if (text[i] != ' ' && text[i] != '\0') out[n++] = text[i];
    out[n] = '\0';
    return out;
}

static const struct entry *look_up(const struct call *call, const char *request, size_t size) {
    const char *text = squeezed(request, size);
    const struct firmware *firmware = &firmwares[call->firmware];
    int asleep = devices[call->firmware][call->index].asleep;
    const struct entry *other = NULL;
    for (int i = 0; i < firmware->count; i++) {
        const struct entry *entry = firmware->entries[i];
        int n = 0;
        while (n < 4 && entry->needles[n] && strcasestr(text, entry->needles[n])) n++;
        if (entry->wire != call->wire || (n < 4 && entry->needles[n])) continue;
        if (entry->state == asleep) return entry;
        if (!other) other = entry;
    }
    return other;
}

static int speaks(const struct call *call) {
    const struct firmware *firmware = &firmwares[call->firmware];
    int i = 0;
    while (i < firmware->count && firmware->entries[i]->wire != call->wire) i++;
    return i < firmware->count;
}

static void arm(void) {
    struct itimerspec when = {0};
    if (head != tail) {
        when.it_value.tv_sec = ring[head % RING].due_ns / 1000000000LL;
        when.it_value.tv_nsec = ring[head % RING].due_ns % 1000000000LL;
    }
    if (timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL) < 0) die("timerfd_settime");
}

static void answer_later(int fd, const struct entry *entry, int closes, uint64_t modbus) {
    if (tail - head == RING) { dropped++; hang_up(fd); return; }
    int was_idle = head == tail;
    ring[tail++ % RING] = (struct answer){now_ns() + delay_ns, fd, calls[fd].generation, entry, closes, modbus};
    if (was_idle) arm();
}

/* How many bytes of the buffer are one whole request; 0 where the rest is on its way. */
static size_t whole(const struct call *call) {
    const char *text = call->buffer;
    size_t used = call->used;
    if (call->wire == FRAMED) {
        uint32_t size;
        if (used < 4) return 0;
        memcpy(&size, text, 4);
        return used >= 4 + (size_t)size ? 4 + (size_t)size : 0;
    }
    if (call->wire == MODBUS) return used >= 12 ? 12 : 0;
    if (call->wire == HTTP) {
        const char *end = memmem(text, used, "\r\n\r\n", 4);
        if (!end) return 0;
        size_t size = (size_t)(end - text) + 4;
        const char *length = strcasestr(text, "\r\ncontent-length:");
        if (length && length < end) size += strtoul(length + 17, NULL, 10);
        return used >= size ? size : 0;
    }
    size_t last = used;
    while (last && strchr(" \r\n\t", text[last - 1])) last--;
    if (!last || (text[0] == '{' && text[last - 1] != '}')) return 0;
    return used;
}

static double drawn_w(void) { /* the first device of a firmware is number 1 */
    double total = 0;
    for (int f = 0; f < MOST_FIRMWARES; f++)
        for (int i = 1; i <= firmwares[f].devices; i++) total += firmwares[f].watts[devices[f][i].asleep];
    return total;
}

static unsigned long staying_well(void) {
    unsigned long well = 0;
    for (int f = 0; f < MOST_FIRMWARES; f++)
        for (int i = 1; i <= firmwares[f].devices; i++) well += ailment_of(i) == WELL;
    return well;
}

static float metered_w(void) {
    meter_noise = (meter_noise * 75 + 74) % 65537;
    return (float)(drawn_w() * (1.0 + (meter_noise - 32768) / 32768.0 * 0.002));
}

static void serve(int fd) {
    struct call *call = &calls[fd];
    size_t size = whole(call);
    if (!size || call->busy) return;
    requests++;
    call->busy = 1;
    enum ailment ailment = ailment_now(call);
    if (ailment == HUNG || ailment == SILENT) return; /* silent ones on a connection from before */
    if (ailment == REFUSING) { refuse(fd); return; }
    if (call->wire == MODBUS) {
        uint64_t asked = (uint64_t)(uint8_t)call->buffer[0] << 24 | (uint64_t)(uint8_t)call->buffer[1] << 16 |
                         (uint64_t)(uint8_t)call->buffer[6] << 8 | (uint8_t)call->buffer[7];
        answer_later(fd, NULL, 0, asked);
    } else {
        const struct entry *entry = look_up(call, call->buffer, size);
        if (!entry) {
            if (unknown++ < 20) fprintf(stderr, "no answer in the book (firmware %d): %.*s\n", call->firmware, (int)size, call->buffer);
            hang_up(fd);
            return;
        }
        struct device *device = &devices[call->firmware][call->index];
        if (entry->stops) {
            device->asleep = 1;
            if (!device->told_ns) device->told_ns = now_ns();
        } else if (entry->starts) device->asleep = 0;
        int closes = call->wire == RPC || (call->wire == HTTP && strcasestr(call->buffer, "connection: close"));
        answer_later(fd, entry, closes, 0);
    }
    memmove(call->buffer, call->buffer + size, call->used - size + 1);
    call->used -= size;
}

static void send_due(void) {
    uint64_t ticks;
    if (read(timer, &ticks, sizeof ticks) < 0 && errno != EAGAIN) die("timerfd");
    int64_t now = now_ns();
    while (head != tail && ring[head % RING].due_ns <= now) {
        struct answer answer = ring[head++ % RING];
        struct call *call = &calls[answer.fd];
        if (call->generation != answer.generation) continue;
        if (!answer.entry) {
            union { float watts; uint32_t bits; } power = {.watts = metered_w()};
            uint64_t a = answer.modbus;
            uint8_t reply[13] = {a >> 24, a >> 16, 0, 0, 0, 7, a >> 8, a, 4, power.bits >> 24, power.bits >> 16, power.bits >> 8, power.bits};
            if (write(answer.fd, reply, sizeof reply) < 0) { hang_up(answer.fd); continue; }
        } else {
            if (answer.entry->size && write(answer.fd, answer.entry->reply, answer.entry->size) < 0) { hang_up(answer.fd); continue; }
            struct device *device = &devices[call->firmware][call->index];
            if (answer.entry->stops && !device->answered_ns) {
                device->answered_ns = now_ns();
                stopped++;
                well_stopped += ailment_of(call->index) == WELL;
            }
        }
        call->busy = 0;
        if (answer.closes) hang_up(answer.fd);
        else serve(answer.fd);
    }
    arm();
}

static void take_calls(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        struct sockaddr_in called;
        socklen_t size = sizeof called;
        uint32_t address = getsockname(fd, (struct sockaddr *)&called, &size) ? 0 : ntohl(called.sin_addr.s_addr);
        int wire = listeners[listener] - 1, firmware = (int)(address >> 16 & 255) - first_net;
        if (fd >= MOST_FDS || (wire != MODBUS && (firmware < 0 || firmware >= MOST_FIRMWARES || !devices[firmware]))) { close(fd); continue; }
        struct call *call = &calls[fd];
        if (!call->buffer) call->buffer = malloc(LONGEST + 1);
        call->wire = (enum wire)wire;
        call->firmware = wire == MODBUS ? 0 : firmware;
        call->index = (int)(address & 0xffff);
        call->used = 0;
        call->busy = 0;
        if (ailment_now(call) == REFUSING) { refuse(fd); continue; }
        if (wire != MODBUS && !speaks(call)) { hang_up(fd); continue; } /* nobody listens there on a real one */
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0) die("epoll_ctl");
    }
}

static void hear(int fd) {
    struct call *call = &calls[fd];
    ssize_t got = read(fd, call->buffer + call->used, LONGEST - call->used);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) { hang_up(fd); return; }
    call->used += (size_t)got;
    call->buffer[call->used] = '\0';
    serve(fd);
}

static void report(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu_s = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    printf("{\"cpu_s\":%.6f,\"requests\":%lu,\"unknown\":%lu,\"dropped\":%lu,\"stops\":[", cpu_s, requests, unknown, dropped);
    const char *comma = "";
    for (int f = 0; f < MOST_FIRMWARES; f++)
        for (int i = 0; devices[f] && i < DEVICES; i++)
            if (devices[f][i].told_ns) {
                printf("%s[%lld,%lld,%d]", comma, (long long)devices[f][i].told_ns, (long long)devices[f][i].answered_ns, ailment_of(i) == WELL);
                comma = ",";
            }
    printf("]}\n");
    fflush(stdout);
}

static void obey(void) {
    static char line[256];
    static size_t used;
    ssize_t got = read(0, line + used, sizeof line - 1 - used);
    if (got <= 0) exit(0);
    used += (size_t)got;
    line[used] = '\0';
    char *end;
    while ((end = strchr(line, '\n'))) {
        *end = '\0';
        if (!strcmp(line, "report")) report();
        else if (!strcmp(line, "stopped")) {
            printf("%lu %lu %lu\n", well_stopped, stopped, staying_well());
            fflush(stdout);
        } else if (!strcmp(line, "watts")) {
            printf("%.1f\n", drawn_w());
            fflush(stdout);
        } else if (!strcmp(line, "ail")) ail(1);
        else if (!strcmp(line, "reset")) {
            for (int f = 0; f < MOST_FIRMWARES; f++)
                if (devices[f]) memset(devices[f], 0, DEVICES * sizeof(struct device));
            stopped = well_stopped = 0;
            ail(0);
        }
        used -= (size_t)(end + 1 - line);
        memmove(line, end + 1, used + 1);
    }
}

static char *unhexed(const char *hex, size_t *size) {
    size_t n = strlen(hex) / 2;
    char *bytes = malloc(n + 1);
    for (size_t i = 0; i < n; i++) sscanf(hex + 2 * i, "%2hhx", (unsigned char *)&bytes[i]);
    bytes[n] = '\0';
    if (size) *size = n;
    return bytes;
}

/* Lines of words: "delay NS", "net FIRST", "firmware N DEVICES AWAKE_W ASLEEP_W", and
 * "entry N WIRE STATE EFFECT NEEDLES REPLY", the last two in hex, up to four needles a line each, "-" for no reply. */
static void read_book(const char *path) {
    FILE *book = fopen(path, "r");
    char *line = NULL;
    size_t room = 0;
    if (!book) die(path);
    while (getline(&line, &room, book) > 0) {
        char *rest = line, *word[7];
        int n = 0;
        for (char *w; n < 7 && (w = strsep(&rest, " \n")); )
            if (*w) word[n++] = w;
        if (n == 2 && !strcmp(word[0], "delay")) delay_ns = atoll(word[1]);
        else if (n == 2 && !strcmp(word[0], "net")) first_net = atoi(word[1]);
        else if (n == 5 && !strcmp(word[0], "firmware")) {
            int f = atoi(word[1]);
            firmwares[f].devices = atoi(word[2]);
            firmwares[f].watts[0] = atof(word[3]);
            firmwares[f].watts[1] = atof(word[4]);
            devices[f] = calloc(DEVICES, sizeof(struct device));
        } else if (n == 7 && !strcmp(word[0], "entry")) {
            struct firmware *firmware = &firmwares[atoi(word[1])];
            struct entry *entry = calloc(1, sizeof *entry);
            while (entry->wire < MODBUS && strcmp(WIRES[entry->wire], word[2])) entry->wire++;
            entry->state = atoi(word[3]);
            entry->stops = !strcmp(word[4], "stop");
            entry->starts = !strcmp(word[4], "start");
            char *needles = unhexed(word[5], NULL);
            for (int i = 0; i < 4; i++) entry->needles[i] = strsep(&needles, "\n");
            entry->reply = unhexed(strcmp(word[6], "-") ? word[6] : "", &entry->size);
            if (firmware->count < MOST_ENTRIES) firmware->entries[firmware->count++] = entry;
        } else { fprintf(stderr, "not a line of a book: %s\n", word[0]); exit(1); }
    }
    free(line);
    fclose(book);
}

static void listen_on(const char *where) {
    const char *wire = strchr(where, ':');
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(where))};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (fd < 0 || !wire || bind(fd, (struct sockaddr *)&here, sizeof here) < 0 || listen(fd, 4096) < 0) die(where);
    for (int i = 0; i < 4; i++)
        if (!strcmp(WIRES[i], wire + 1)) listeners[fd] = i + 1;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
}

int main(int count, char **arguments) {
    if (count < 3) { fprintf(stderr, "responder BOOK PORT:WIRE...\n"); return 2; }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max < MOST_FDS ? files.rlim_max : MOST_FDS;
    setrlimit(RLIMIT_NOFILE, &files);
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    read_book(arguments[1]);
    for (int i = 2; i < count; i++) listen_on(arguments[i]);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = timer}, ready[512];
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event);
    event.data.fd = 0;
    epoll_ctl(poller, EPOLL_CTL_ADD, 0, &event);
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(poller, ready, 512, -1);
        if (n < 0 && errno != EINTR) die("epoll_wait");
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            if (fd == timer) send_due();
            else if (fd == 0) obey();
            else if (listeners[fd]) take_calls(fd);
            else hear(fd);
        }
    }
}
