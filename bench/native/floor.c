/* The floor under the benches: connects to every device, sends its bytes, waits for the answer, hangs up. No parsing, no
 * bookkeeping, one epoll loop: what the sockets alone cost.
 *
 *     floor AT_ONCE < PLAN
 *
 * A line of the plan is one device: "ADDRESS PORT QUESTION", the question in hex. Prints one line of JSON. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct device { struct sockaddr_in address; const char *question; size_t size; };
struct question { char *hex, *bytes; size_t size; };

static struct device *devices;
static size_t count, next_device, done, failed, busy;
static struct question questions[1024];
static int poller;

static int64_t now_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static const struct question *known(const char *hex) {
    int i = 0;
    while (questions[i].hex && strcmp(questions[i].hex, hex)) i++;
    if (i == 1023) { fprintf(stderr, "too many different questions\n"); exit(1); }
    if (!questions[i].hex) {
        questions[i].hex = strdup(hex);
        questions[i].size = strlen(hex) / 2;
        questions[i].bytes = malloc(questions[i].size + 1);
        for (size_t n = 0; n < questions[i].size; n++) sscanf(hex + 2 * n, "%2hhx", (unsigned char *)&questions[i].bytes[n]);
    }
    return &questions[i];
}

static void read_plan(void) {
    char *line = NULL;
    size_t room = 0, space = 0;
    while (getline(&line, &room, stdin) > 0) {
        char *rest = line, *address = strsep(&rest, " \n"), *port = strsep(&rest, " \n"), *hex = strsep(&rest, " \n");
        if (!hex) continue;
        if (count == space) devices = realloc(devices, (space = space ? 2 * space : 1024) * sizeof *devices);
        const struct question *question = known(hex);
        struct device *device = &devices[count++];
        *device = (struct device){{.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))}, question->bytes, question->size};
        inet_pton(AF_INET, address, &device->address.sin_addr);
    }
    free(line);
}

static void begin(void) {
    const struct device *device = &devices[next_device++];
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct linger at_once = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    if (fd < 0 || (connect(fd, (const struct sockaddr *)&device->address, sizeof device->address) < 0 && errno != EINPROGRESS)) {
        failed++;
        if (fd >= 0) close(fd);
        return;
    }
    struct epoll_event event = {.events = EPOLLOUT, .data.u64 = (uint64_t)(next_device - 1) << 32 | (uint32_t)fd};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    busy++;
}

int main(int arguments, char **argument) {
    static char answer[1 << 16];
    size_t at_once = arguments > 1 ? strtoul(argument[1], NULL, 10) : 256;
    struct epoll_event ready[512];
    read_plan();
    poller = epoll_create1(EPOLL_CLOEXEC);
    int64_t began_ns = now_ns(), first_ns = 0;
    while (done + failed < count) {
        while (busy < at_once && next_device < count) begin();
        int n = busy ? epoll_wait(poller, ready, 512, 10000) : 0;
        if (busy && n <= 0) { failed += busy; break; }
        for (int i = 0; i < n; i++) {
            int fd = (int)(uint32_t)ready[i].data.u64;
            const struct device *device = &devices[ready[i].data.u64 >> 32];
            if (ready[i].events & EPOLLOUT && !(ready[i].events & EPOLLERR)) {
                if (send(fd, device->question, device->size, MSG_NOSIGNAL) == (ssize_t)device->size) {
                    struct epoll_event event = {.events = EPOLLIN, .data.u64 = ready[i].data.u64};
                    epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event);
                    continue;
                }
                failed++;
            } else if (read(fd, answer, sizeof answer) > 0) {
                done++;
                if (!first_ns) first_ns = now_ns();
            } else failed++;
            close(fd);
            busy--;
        }
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu_s = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    printf("{\"answered\":%zu,\"failed\":%zu,\"first_s\":%.6f,\"last_s\":%.6f,\"cpu_s\":%.6f}\n", done, failed,
           (double)(first_ns - began_ns) / 1e9, (double)(now_ns() - began_ns) / 1e9, cpu_s);
    return failed != 0;
}
