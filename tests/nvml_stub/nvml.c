/* The symbols of libnvidia-ml.so.1 that power control needs, over emulated GPUs.
 *
 * Which GPUs these are says the file that the environment variable NVML_STUB_GPUS names; it is looked up at every
 * nvmlInit. Signatures and structures are those of NVIDIA's nvml.h as nvidia-ml-py 13 calls them.
 */
#include "stub.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef uint32_t result_t;
typedef struct gpu *device_t; /* opaque to callers */

/* Every exported symbol, in the order of their counters. */
#define SYMBOLS(_)                                                                                                   \
    _(nvmlInitWithFlags) _(nvmlInit_v2) _(nvmlShutdown) _(nvmlSystemGetDriverVersion) _(nvmlSystemGetNVMLVersion)   \
    _(nvmlDeviceGetCount_v2) _(nvmlDeviceGetHandleByIndex_v2) _(nvmlDeviceGetHandleByUUID)                          \
    _(nvmlDeviceGetHandleByPciBusId_v2) _(nvmlDeviceGetName) _(nvmlDeviceGetUUID) _(nvmlDeviceGetSerial)            \
    _(nvmlDeviceGetIndex) _(nvmlDeviceGetPciInfo_v3) _(nvmlDeviceGetPowerUsage)                                     \
    _(nvmlDeviceGetTotalEnergyConsumption) _(nvmlDeviceGetPowerManagementMode)                                      \
    _(nvmlDeviceGetPowerManagementLimit) _(nvmlDeviceGetPowerManagementDefaultLimit)                                \
    _(nvmlDeviceGetPowerManagementLimitConstraints) _(nvmlDeviceGetEnforcedPowerLimit)                              \
    _(nvmlDeviceSetPowerManagementLimit) _(nvmlDeviceSetPowerManagementLimit_v2) _(nvmlDeviceGetFieldValues)        \
    _(nvmlDeviceGetCurrentClocksEventReasons) _(nvmlDeviceGetCurrentClocksThrottleReasons)                          \
    _(nvmlDeviceGetClockInfo) _(nvmlDeviceGetMaxClockInfo) _(nvmlDeviceGetSupportedMemoryClocks)                    \
    _(nvmlDeviceGetSupportedGraphicsClocks) _(nvmlDeviceSetGpuLockedClocks) _(nvmlDeviceResetGpuLockedClocks)       \
    _(nvmlDeviceGetTemperature) _(nvmlDeviceGetUtilizationRates) _(nvmlDeviceGetComputeRunningProcesses_v3)         \
    _(nvmlDeviceGetMigMode) _(nvmlDeviceGetPersistenceMode) _(nvmlDeviceSetPersistenceMode) _(nvmlEventSetCreate)   \
    _(nvmlDeviceGetSupportedEventTypes) _(nvmlDeviceRegisterEvents) _(nvmlEventSetWait_v2) _(nvmlEventSetFree)

#define ENUMERATED(symbol) AT_##symbol,
enum at { SYMBOLS(ENUMERATED) SYMBOL_COUNT };
#define NAMED(symbol) #symbol,
static const char *const NAMES[] = {SYMBOLS(NAMED)};

static struct farm *farm;                  /* of this process, once initialised */
static char farm_path[4096];
static uint32_t initialised;               /* NVML counts its inits and shutdowns */
static uint32_t generations[MAX_GPUS];     /* of the GPUs when the library was initialised */

static void pause_us(uint32_t us) {
    struct timespec left = {us / 1000000, (long)(us % 1000000) * 1000};
    while (nanosleep(&left, &left) != 0) {}
}

static uint32_t number_of(device_t gpu) { return (uint32_t)(gpu - farm->gpus); }

static void hang(enum at symbol, device_t gpu, uint32_t kind) {
    if (__atomic_load_n(&gpu->hang, __ATOMIC_ACQUIRE) != kind) return;
    __atomic_add_fetch(&farm->symbols[symbol].hanging, 1, __ATOMIC_RELEASE);
    while (__atomic_load_n(&gpu->hang, __ATOMIC_ACQUIRE) == kind) pause_us(1000);
    __atomic_sub_fetch(&farm->symbols[symbol].hanging, 1, __ATOMIC_RELEASE);
}

/* Count the call, take its time, and say with what it fails. */
static result_t enter(enum at symbol) {
    if (farm == NULL || !initialised) return UNINITIALIZED;
    __atomic_add_fetch(&farm->symbols[symbol].calls, 1, __ATOMIC_RELAXED);
    if (farm->latency_us) pause_us(farm->latency_us);
    return farm->symbols[symbol].result;
}

static result_t enter_gpu(enum at symbol, device_t gpu) {
    result_t trouble = enter(symbol);
    if (trouble) return trouble;
    if (gpu < farm->gpus || gpu >= farm->gpus + farm->gpu_count) return INVALID_ARGUMENT;
    hang(symbol, gpu, HANG_BEFORE);
    return gpu->lost || gpu->generation != generations[number_of(gpu)] ? GPU_IS_LOST : SUCCESS;
}

#define ENTER(symbol)                          \
    do {                                       \
        result_t trouble = enter(AT_##symbol); \
        if (trouble) return trouble;           \
    } while (0)
#define ENTER_GPU(symbol, gpu)                          \
    do {                                                \
        result_t trouble = enter_gpu(AT_##symbol, gpu); \
        if (trouble) return trouble;                    \
    } while (0)

static result_t tell(char *into, uint32_t room, const char *text) {
    if (strlen(text) >= room) return INSUFFICIENT_SIZE;
    strcpy(into, text);
    return SUCCESS;
}

/* --- the library itself ------------------------------------------------------------------------------------------ */

static result_t map_farm(void) {
    const char *path = getenv("NVML_STUB_GPUS");
    if (path == NULL) return DRIVER_NOT_LOADED;
    if (farm != NULL && strcmp(path, farm_path) == 0) return SUCCESS;
    int file = open(path, O_RDWR);
    if (file < 0) return DRIVER_NOT_LOADED;
    void *mapped = mmap(NULL, sizeof(struct farm), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped == MAP_FAILED || ((struct farm *)mapped)->size != sizeof(struct farm)) return UNKNOWN;
    farm = mapped; /* an earlier one stays mapped: somebody may hold a handle of it */
    snprintf(farm_path, sizeof farm_path, "%s", path);
    for (int symbol = 0; symbol < SYMBOL_COUNT; symbol++) strcpy(farm->symbols[symbol].name, NAMES[symbol]);
    return SUCCESS;
}

static result_t initialise(enum at symbol) {
    result_t trouble = map_farm();
    if (trouble) return trouble;
    __atomic_add_fetch(&farm->symbols[symbol].calls, 1, __ATOMIC_RELAXED);
    if (farm->init_result) return farm->init_result;
    for (int number = 0; number < MAX_GPUS; number++) generations[number] = farm->gpus[number].generation;
    initialised++;
    return SUCCESS;
}

result_t nvmlInitWithFlags(uint32_t flags) {
    (void)flags;
    return initialise(AT_nvmlInitWithFlags);
}

result_t nvmlInit_v2(void) { return initialise(AT_nvmlInit_v2); }

result_t nvmlShutdown(void) {
    ENTER(nvmlShutdown);
    initialised--;
    return SUCCESS;
}

const char *nvmlErrorString(result_t result) {
    static char words[32];
    snprintf(words, sizeof words, "stub error %u", result);
    return words;
}

result_t nvmlSystemGetDriverVersion(char *version, uint32_t room) {
    ENTER(nvmlSystemGetDriverVersion);
    return tell(version, room, farm->driver_version);
}

result_t nvmlSystemGetNVMLVersion(char *version, uint32_t room) {
    ENTER(nvmlSystemGetNVMLVersion);
    return tell(version, room, farm->driver_version);
}

/* --- which GPU it is --------------------------------------------------------------------------------------------- */

result_t nvmlDeviceGetCount_v2(uint32_t *count) {
    ENTER(nvmlDeviceGetCount_v2);
    *count = farm->gpu_count;
    return SUCCESS;
}

/* A lost GPU gives out no handle. */
static result_t hand_out(uint32_t number, device_t *device) {
    if (number >= farm->gpu_count) return NOT_FOUND;
    if (farm->gpus[number].lost) return GPU_IS_LOST;
    *device = &farm->gpus[number];
    return SUCCESS;
}

result_t nvmlDeviceGetHandleByIndex_v2(uint32_t index, device_t *device) {
    ENTER(nvmlDeviceGetHandleByIndex_v2);
    return index >= farm->gpu_count ? INVALID_ARGUMENT : hand_out(index, device);
}

result_t nvmlDeviceGetHandleByUUID(const char *uuid, device_t *device) {
    ENTER(nvmlDeviceGetHandleByUUID);
    uint32_t number = 0;
    while (number < farm->gpu_count && strcmp(farm->gpus[number].uuid, uuid) != 0) number++;
    return hand_out(number, device);
}

result_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, device_t *device) {
    ENTER(nvmlDeviceGetHandleByPciBusId_v2);
    uint32_t number = 0;
    while (number < farm->gpu_count && strcmp(farm->gpus[number].bus_id, bus_id) != 0) number++;
    return hand_out(number, device);
}

#define TEXT(symbol, member)                                      \
    result_t symbol(device_t gpu, char *into, uint32_t room) {    \
        ENTER_GPU(symbol, gpu);                                   \
        return tell(into, room, gpu->member);                     \
    }
TEXT(nvmlDeviceGetName, name)
TEXT(nvmlDeviceGetUUID, uuid)
TEXT(nvmlDeviceGetSerial, serial)

struct pci {
    char bus_id_legacy[16];
    uint32_t domain, bus, device, id, subsystem_id;
    char bus_id[32];
};

result_t nvmlDeviceGetPciInfo_v3(device_t gpu, struct pci *pci) {
    ENTER_GPU(nvmlDeviceGetPciInfo_v3, gpu);
    memset(pci, 0, sizeof *pci);
    strcpy(pci->bus_id, gpu->bus_id);
    snprintf(pci->bus_id_legacy, sizeof pci->bus_id_legacy, "%s", gpu->bus_id + 4); /* domain of four digits there */
    pci->bus = number_of(gpu) + 1;
    return SUCCESS;
}

/* --- one number about one GPU ------------------------------------------------------------------------------------ */

#define NUMBER(symbol, type, expression)               \
    result_t symbol(device_t gpu, type *value) {       \
        ENTER_GPU(symbol, gpu);                        \
        stub_lock(farm);                               \
        *value = (type)(expression);                   \
        stub_unlock(farm);                             \
        return SUCCESS;                                \
    }
#define OF_GPU_SCOPE(symbol, expression)                                          \
    result_t symbol(device_t gpu, uint32_t *value) {                              \
        ENTER_GPU(symbol, gpu);                                                   \
        const struct limit *limit = &gpu->limits[SCOPE_GPU];                      \
        if (!limit->settable) return NOT_SUPPORTED;                               \
        *value = expression;                                                      \
        return SUCCESS;                                                           \
    }

static uint64_t reasons_of(device_t gpu) {
    uint64_t idle = gpu->demand_mw <= gpu->idle_mw ? 0x1 : 0, locked = gpu->lock_max_mhz ? 0x2 : 0;
    return idle | locked | (stub_cap_binds(gpu) ? 0x4 : 0) | gpu->extra_reasons;
}

NUMBER(nvmlDeviceGetIndex, uint32_t, number_of(gpu))
NUMBER(nvmlDeviceGetPowerUsage, uint32_t, stub_average_mw(farm, number_of(gpu)))
NUMBER(nvmlDeviceGetTotalEnergyConsumption, uint64_t, stub_energy_mj(farm, number_of(gpu)))
NUMBER(nvmlDeviceGetPowerManagementMode, uint32_t, 1)
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, uint64_t, reasons_of(gpu))
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, uint64_t, reasons_of(gpu))
NUMBER(nvmlDeviceGetPersistenceMode, uint32_t, gpu->persistent)
NUMBER(nvmlDeviceGetSupportedEventTypes, uint64_t, 0x8)
OF_GPU_SCOPE(nvmlDeviceGetPowerManagementLimit, limit->requested_mw)
OF_GPU_SCOPE(nvmlDeviceGetPowerManagementDefaultLimit, limit->default_mw)
OF_GPU_SCOPE(nvmlDeviceGetEnforcedPowerLimit, stub_enforced_mw(limit))

result_t nvmlDeviceGetPowerManagementLimitConstraints(device_t gpu, uint32_t *min_mw, uint32_t *max_mw) {
    ENTER_GPU(nvmlDeviceGetPowerManagementLimitConstraints, gpu);
    const struct limit *limit = &gpu->limits[SCOPE_GPU];
    if (!limit->settable) return NOT_SUPPORTED;
    *min_mw = limit->min_mw;
    *max_mw = limit->max_mw;
    return SUCCESS;
}

result_t nvmlDeviceGetTemperature(device_t gpu, uint32_t sensor, uint32_t *celsius) {
    ENTER_GPU(nvmlDeviceGetTemperature, gpu);
    if (sensor != 0) return INVALID_ARGUMENT;
    *celsius = (uint32_t)(28.0 + 50.0 * stub_power_mw(farm, number_of(gpu)) / gpu->limits[SCOPE_GPU].max_mw);
    return SUCCESS;
}

result_t nvmlDeviceGetUtilizationRates(device_t gpu, uint32_t rates[2]) {
    ENTER_GPU(nvmlDeviceGetUtilizationRates, gpu);
    rates[0] = gpu->utilisation_percent;
    rates[1] = gpu->utilisation_percent / 2;
    return SUCCESS;
}

result_t nvmlDeviceGetMigMode(device_t gpu, uint32_t *current, uint32_t *pending) {
    ENTER_GPU(nvmlDeviceGetMigMode, gpu);
    *current = *pending = gpu->mig_mode;
    return SUCCESS;
}

struct process {
    uint32_t pid;
    uint64_t used_memory;
    uint32_t gpu_instance, compute_instance;
};

result_t nvmlDeviceGetComputeRunningProcesses_v3(device_t gpu, uint32_t *count, struct process *processes) {
    ENTER_GPU(nvmlDeviceGetComputeRunningProcesses_v3, gpu);
    uint32_t room = *count;
    *count = gpu->process_count;
    if (room < gpu->process_count) return INSUFFICIENT_SIZE;
    for (uint32_t n = 0; n < gpu->process_count; n++)
        processes[n] = (struct process){gpu->pids[n], 40ULL << 30, 0xFFFFFFFF, 0xFFFFFFFF};
    return SUCCESS;
}

/* --- limits ------------------------------------------------------------------------------------------------------ */

struct field {
    uint32_t id, scope;
    int64_t timestamp_us, latency_us;
    uint32_t type, result;
    union {
        uint32_t u32;
        uint64_t u64;
    } value;
};
_Static_assert(sizeof(struct field) == 40, "a field value as nvml.h lays it out");

enum { TYPE_U32 = 1, TYPE_U64 = 3 };

/* Scope 0 is the GPU; the module, where there is one, answers the power fields under scope 1. */
static result_t read_field(device_t gpu, struct field *field) {
    uint32_t number = number_of(gpu);
    const struct limit *limit = &gpu->limits[field->scope < SCOPES ? field->scope : 0];
    double beside_mw = field->scope == SCOPE_MODULE ? gpu->companion_mw : 0.0;
    if (field->id > farm->highest_field) return INVALID_ARGUMENT;
    if (field->id == 83 || field->id == 191) {
        field->type = TYPE_U64;
        field->value.u64 = (uint64_t)stub_energy_mj(farm, number);
        return SUCCESS;
    }
    if (field->id < 185 || field->id > 192) return NOT_SUPPORTED;
    if (field->scope >= SCOPES || limit->max_mw == 0) return NOT_SUPPORTED;
    if (field->id >= 187 && !limit->settable) return NOT_SUPPORTED;
    const uint32_t values[] = {
        (uint32_t)(stub_average_mw(farm, number) + beside_mw),
        (uint32_t)(stub_power_mw(farm, number) + beside_mw),
        limit->min_mw,
        limit->max_mw,
        limit->default_mw,
        stub_enforced_mw(limit),
        0, /* 191, energy: above */
        limit->requested_mw,
    };
    field->type = TYPE_U32;
    field->value.u32 = values[field->id - 185];
    return SUCCESS;
}

result_t nvmlDeviceGetFieldValues(device_t gpu, int32_t count, struct field *fields) {
    ENTER_GPU(nvmlDeviceGetFieldValues, gpu);
    if (count <= 0 || fields == NULL) return INVALID_ARGUMENT;
    struct timespec wall;
    clock_gettime(CLOCK_REALTIME, &wall);
    stub_lock(farm);
    for (int32_t n = 0; n < count; n++) {
        fields[n].timestamp_us = wall.tv_sec * 1000000 + wall.tv_nsec / 1000;
        fields[n].result = read_field(gpu, &fields[n]);
    }
    stub_unlock(farm);
    return SUCCESS;
}

static result_t set_limit(enum at symbol, device_t gpu, uint32_t scope, uint32_t limit_mw) {
    if (scope >= SCOPES || !gpu->limits[scope].settable) return NOT_SUPPORTED;
    if (farm->deny_permission) return NO_PERMISSION;
    struct limit *limit = &gpu->limits[scope];
    if (limit_mw < limit->min_mw || limit_mw > limit->max_mw) return INVALID_ARGUMENT;
    stub_lock(farm);
    stub_settle(farm, number_of(gpu));
    limit->requested_mw = limit_mw;
    stub_unlock(farm);
    hang(symbol, gpu, HANG_AFTER_WRITING);
    return SUCCESS;
}

result_t nvmlDeviceSetPowerManagementLimit(device_t gpu, uint32_t limit_mw) {
    ENTER_GPU(nvmlDeviceSetPowerManagementLimit, gpu);
    return set_limit(AT_nvmlDeviceSetPowerManagementLimit, gpu, SCOPE_GPU, limit_mw);
}

struct scoped_power {
    uint32_t version, scope, limit_mw;
};

result_t nvmlDeviceSetPowerManagementLimit_v2(device_t gpu, const struct scoped_power *power) {
    ENTER_GPU(nvmlDeviceSetPowerManagementLimit_v2, gpu);
    if (power->version != (sizeof *power | 2u << 24)) return ARGUMENT_VERSION_MISMATCH;
    return set_limit(AT_nvmlDeviceSetPowerManagementLimit_v2, gpu, power->scope, power->limit_mw);
}

/* --- clocks ------------------------------------------------------------------------------------------------------ */

enum { CLOCK_GRAPHICS, CLOCK_SM, CLOCK_MEMORY, CLOCK_VIDEO, MEMORY_MHZ = 2619, LOWEST_MHZ = 210, STEP_MHZ = 15 };

result_t nvmlDeviceGetClockInfo(device_t gpu, uint32_t clock, uint32_t *mhz) {
    ENTER_GPU(nvmlDeviceGetClockInfo, gpu);
    if (clock > CLOCK_VIDEO) return INVALID_ARGUMENT;
    *mhz = clock == CLOCK_MEMORY ? MEMORY_MHZ : stub_clock_mhz(gpu);
    return SUCCESS;
}

result_t nvmlDeviceGetMaxClockInfo(device_t gpu, uint32_t clock, uint32_t *mhz) {
    ENTER_GPU(nvmlDeviceGetMaxClockInfo, gpu);
    if (clock > CLOCK_VIDEO) return INVALID_ARGUMENT;
    *mhz = clock == CLOCK_MEMORY ? MEMORY_MHZ : gpu->max_clock_mhz;
    return SUCCESS;
}

result_t nvmlDeviceGetSupportedMemoryClocks(device_t gpu, uint32_t *count, uint32_t *mhz) {
    ENTER_GPU(nvmlDeviceGetSupportedMemoryClocks, gpu);
    uint32_t room = *count;
    *count = 1;
    if (room < 1) return INSUFFICIENT_SIZE;
    mhz[0] = MEMORY_MHZ;
    return SUCCESS;
}

result_t nvmlDeviceGetSupportedGraphicsClocks(device_t gpu, uint32_t memory_mhz, uint32_t *count, uint32_t *mhz) {
    ENTER_GPU(nvmlDeviceGetSupportedGraphicsClocks, gpu);
    if (memory_mhz != MEMORY_MHZ) return NOT_FOUND;
    uint32_t room = *count;
    *count = (gpu->max_clock_mhz - LOWEST_MHZ) / STEP_MHZ + 1;
    if (room < *count) return INSUFFICIENT_SIZE;
    for (uint32_t n = 0; n < *count; n++) mhz[n] = gpu->max_clock_mhz - n * STEP_MHZ;
    return SUCCESS;
}

static result_t lock_clocks(enum at symbol, device_t gpu, uint32_t max_mhz) {
    if (farm->deny_permission) return NO_PERMISSION;
    stub_lock(farm);
    stub_settle(farm, number_of(gpu));
    gpu->lock_max_mhz = max_mhz;
    stub_unlock(farm);
    hang(symbol, gpu, HANG_AFTER_WRITING);
    return SUCCESS;
}

result_t nvmlDeviceSetGpuLockedClocks(device_t gpu, uint32_t min_mhz, uint32_t max_mhz) {
    ENTER_GPU(nvmlDeviceSetGpuLockedClocks, gpu);
    if (min_mhz > max_mhz || max_mhz < LOWEST_MHZ) return INVALID_ARGUMENT;
    uint32_t highest_mhz = max_mhz < gpu->max_clock_mhz ? max_mhz : gpu->max_clock_mhz;
    return lock_clocks(AT_nvmlDeviceSetGpuLockedClocks, gpu, highest_mhz);
}

result_t nvmlDeviceResetGpuLockedClocks(device_t gpu) {
    ENTER_GPU(nvmlDeviceResetGpuLockedClocks, gpu);
    return lock_clocks(AT_nvmlDeviceResetGpuLockedClocks, gpu, 0);
}

result_t nvmlDeviceSetPersistenceMode(device_t gpu, uint32_t mode) {
    ENTER_GPU(nvmlDeviceSetPersistenceMode, gpu);
    if (farm->deny_permission) return NO_PERMISSION;
    gpu->persistent = mode != 0;
    return SUCCESS;
}

/* --- events ------------------------------------------------------------------------------------------------------ */

struct event_set {
    uint64_t types[MAX_GPUS], seen;
};

struct event_data {
    device_t gpu;
    uint64_t type, data;
    uint32_t gpu_instance, compute_instance;
};

result_t nvmlEventSetCreate(struct event_set **set) {
    ENTER(nvmlEventSetCreate);
    *set = calloc(1, sizeof **set);
    (*set)->seen = __atomic_load_n(&farm->event_count, __ATOMIC_ACQUIRE);
    return SUCCESS;
}

result_t nvmlDeviceRegisterEvents(device_t gpu, uint64_t types, struct event_set *set) {
    ENTER_GPU(nvmlDeviceRegisterEvents, gpu);
    if (types & ~UINT64_C(0x8)) return NOT_SUPPORTED;
    set->types[number_of(gpu)] |= types;
    return SUCCESS;
}

static int next_event(struct event_set *set, struct event_data *data) {
    while (set->seen < __atomic_load_n(&farm->event_count, __ATOMIC_ACQUIRE)) {
        const struct event *event = &farm->events[set->seen++ % MAX_EVENTS];
        if (!(set->types[event->gpu] & event->type)) continue;
        *data = (struct event_data){&farm->gpus[event->gpu], event->type, event->data, 0xFFFFFFFF, 0xFFFFFFFF};
        return 1;
    }
    return 0;
}

result_t nvmlEventSetWait_v2(struct event_set *set, struct event_data *data, uint32_t timeout_ms) {
    ENTER(nvmlEventSetWait_v2);
    for (uint32_t waited_ms = 0; !next_event(set, data); waited_ms++) {
        if (waited_ms >= timeout_ms) return TIMEOUT;
        pause_us(1000);
    }
    return SUCCESS;
}

result_t nvmlEventSetFree(struct event_set *set) {
    ENTER(nvmlEventSetFree);
    free(set);
    return SUCCESS;
}
