/* What the library, its physics and the test that controls them share: one file mapped by all of them.
 *
 * The layout is mirrored in layout.py; stub_layout() lets that side check it. Watts are milliwatts here, as in NVML.
 */
#ifndef NVML_STUB_H
#define NVML_STUB_H

#include <pthread.h>
#include <stdint.h>

enum { MAX_GPUS = 16, MAX_SYMBOLS = 64, MAX_EVENTS = 64, MAX_PROCESSES = 8 };
enum { SCOPE_GPU = 0, SCOPE_MODULE = 1, SCOPES = 2 };
enum { HANG_NOT = 0, HANG_BEFORE = 1, HANG_AFTER_WRITING = 2 };

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NO_PERMISSION = 4,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    TIMEOUT = 10,
    GPU_IS_LOST = 15,
    ARGUMENT_VERSION_MISMATCH = 25,
    UNKNOWN = 999,
};

/* One power limit: the GPU has one, the module that carries it (GPU, CPU, memory) may have another. */
struct limit {
    uint32_t settable;     /* does a request for this scope work */
    uint32_t min_mw, default_mw, max_mw;
    uint32_t requested_mw; /* what was asked last */
    uint32_t other_mw;     /* a lower limit by another writer, 0: none */
};

struct gpu {
    char name[64], uuid[48], serial[24], bus_id[32];
    struct limit limits[SCOPES];
    /* what the test sets */
    uint32_t demand_mw, idle_mw, companion_mw; /* companion: the rest of the module */
    uint32_t leak_permille, leak_until_mw;     /* above the limit at min_mw, falling to none here */
    uint32_t utilisation_percent, mig_mode, extra_reasons;
    uint32_t lost, hang, generation, max_clock_mhz;
    uint32_t process_count, pids[MAX_PROCESSES];
    double lag_s; /* time constant with which draw follows its target */
    /* what calls and time make of it */
    uint32_t lock_max_mhz; /* 0: clocks are not locked */
    uint32_t persistent;
    double from_mw, energy_mj; /* draw and energy at `at_s` */
    double at_s;
};

struct symbol {
    char name[56];
    uint64_t calls;
    uint32_t result; /* what it fails with, 0: it works */
    uint32_t hanging; /* calls that hang now */
};

struct event {
    uint64_t gpu, type, data;
};

struct farm {
    uint32_t size; /* of this structure: both sides must mean the same */
    uint32_t gpu_count, deny_permission, init_result, highest_field, latency_us;
    double speed, began_s, skipped_s; /* now = skipped + speed × (monotonic − began): 0 stops the clock */
    char driver_version[80];
    uint64_t event_count; /* ever; the last MAX_EVENTS are kept */
    struct event events[MAX_EVENTS];
    struct symbol symbols[MAX_SYMBOLS];
    union {
        pthread_mutex_t mutex;
        char room[64];
    } lock;
    struct gpu gpus[MAX_GPUS];
};

/* Physics (physics.c); the control side calls these too, by ctypes. */
uint32_t stub_layout(void);
void stub_begin(struct farm *farm); /* makes the lock and starts the clock */
void stub_lock(struct farm *farm);
void stub_unlock(struct farm *farm);
double stub_now_s(const struct farm *farm);
void stub_settle(struct farm *farm, uint32_t gpu);         /* before anything that moves its draw */
double stub_power_mw(struct farm *farm, uint32_t gpu);     /* at this instant */
double stub_average_mw(struct farm *farm, uint32_t gpu);   /* over the last second */
double stub_energy_mj(struct farm *farm, uint32_t gpu);    /* since the beginning */
uint32_t stub_enforced_mw(const struct limit *limit);      /* the lowest of all writers */
uint32_t stub_cap_binds(const struct gpu *gpu);
uint32_t stub_clock_mhz(const struct gpu *gpu);

#endif
