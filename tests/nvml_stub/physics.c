/* What a GPU draws: the lesser of what its work asks for and what its limit allows, with a lag and a leak.
 *
 * Closed formulas between two changes, so that the same calls at the same times give the same watts. Whoever changes
 * a demand, a limit or a clock calls stub_settle() first, with the lock held.
 */
#include "stub.h"

#include <errno.h>
#include <math.h>
#include <time.h>

uint32_t stub_layout(void) { return sizeof(struct farm); }

static double monotonic_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

void stub_begin(struct farm *farm) {
    pthread_mutexattr_t shared;
    pthread_mutexattr_init(&shared);
    pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&shared, PTHREAD_MUTEX_ROBUST); /* a daemon may be killed at any instant */
    pthread_mutex_init(&farm->lock.mutex, &shared);
    farm->began_s = monotonic_s();
}

void stub_lock(struct farm *farm) {
    if (pthread_mutex_lock(&farm->lock.mutex) == EOWNERDEAD) pthread_mutex_consistent(&farm->lock.mutex);
}

void stub_unlock(struct farm *farm) { pthread_mutex_unlock(&farm->lock.mutex); }

double stub_now_s(const struct farm *farm) {
    return farm->skipped_s + farm->speed * (monotonic_s() - farm->began_s);
}

uint32_t stub_enforced_mw(const struct limit *limit) {
    return limit->other_mw && limit->other_mw < limit->requested_mw ? limit->other_mw : limit->requested_mw;
}

/* What its work would draw at the clocks it may run at: dynamic power falls about with the square of the clock. */
static double wanted_mw(const struct gpu *gpu) {
    double idle_mw = gpu->idle_mw, demand_mw = fmax(gpu->demand_mw, idle_mw);
    double share = gpu->lock_max_mhz ? fmin(1.0, (double)gpu->lock_max_mhz / gpu->max_clock_mhz) : 1.0;
    return idle_mw + (demand_mw - idle_mw) * share * share;
}

static double allowed_mw(const struct gpu *gpu) {
    double allowed = gpu->limits[SCOPE_GPU].max_mw;
    for (int scope = 0; scope < SCOPES; scope++) {
        const struct limit *limit = &gpu->limits[scope];
        double enforced = stub_enforced_mw(limit);
        if (limit->max_mw == 0) continue;
        if (scope == SCOPE_MODULE) enforced -= gpu->companion_mw;
        allowed = fmin(allowed, enforced);
    }
    return allowed;
}

static double target_mw(const struct gpu *gpu) {
    double wanted = wanted_mw(gpu), allowed = allowed_mw(gpu);
    double floor_mw = gpu->limits[SCOPE_GPU].min_mw, until_mw = gpu->leak_until_mw;
    if (allowed < until_mw && until_mw > floor_mw) {
        double nearness = fmin(1.0, (until_mw - allowed) / (until_mw - floor_mw));
        allowed *= 1.0 + nearness * gpu->leak_permille / 1000.0;
    }
    return fmax(fmin(wanted, allowed), gpu->idle_mw);
}

uint32_t stub_cap_binds(const struct gpu *gpu) { return wanted_mw(gpu) > allowed_mw(gpu); }

/* The clock that goes with its draw, in steps of 15 MHz. */
uint32_t stub_clock_mhz(const struct gpu *gpu) {
    double idle_mw = gpu->idle_mw, demand_mw = gpu->demand_mw;
    if (demand_mw <= idle_mw) return 345;
    double share = sqrt(fmax(0.0, target_mw(gpu) - idle_mw) / (demand_mw - idle_mw));
    return (uint32_t)(fmax(0.2, share) * gpu->max_clock_mhz / 15.0) * 15;
}

static double elapsed_s(const struct farm *farm, const struct gpu *gpu) {
    return fmax(0.0, stub_now_s(farm) - gpu->at_s);
}

static double curve_mw(const struct gpu *gpu, double elapsed) {
    double target = target_mw(gpu);
    return target + (gpu->from_mw - target) * (gpu->lag_s > 0.0 ? exp(-elapsed / gpu->lag_s) : 0.0);
}

/* mW × s = mJ under the curve, from the last change on. */
static double curve_mj(const struct gpu *gpu, double elapsed) {
    double target = target_mw(gpu);
    double decayed_s = gpu->lag_s > 0.0 ? gpu->lag_s * (1.0 - exp(-elapsed / gpu->lag_s)) : 0.0;
    return target * elapsed + (gpu->from_mw - target) * decayed_s;
}

void stub_settle(struct farm *farm, uint32_t number) {
    struct gpu *gpu = &farm->gpus[number];
    double elapsed = elapsed_s(farm, gpu);
    gpu->energy_mj += curve_mj(gpu, elapsed);
    gpu->from_mw = curve_mw(gpu, elapsed);
    gpu->at_s += elapsed;
}

double stub_power_mw(struct farm *farm, uint32_t number) {
    const struct gpu *gpu = &farm->gpus[number];
    return curve_mw(gpu, elapsed_s(farm, gpu));
}

double stub_energy_mj(struct farm *farm, uint32_t number) {
    const struct gpu *gpu = &farm->gpus[number];
    return gpu->energy_mj + curve_mj(gpu, elapsed_s(farm, gpu));
}

double stub_average_mw(struct farm *farm, uint32_t number) {
    const struct gpu *gpu = &farm->gpus[number];
    double elapsed = elapsed_s(farm, gpu);
    if (elapsed < 1.0) return curve_mj(gpu, elapsed) + gpu->from_mw * (1.0 - elapsed);
    return curve_mj(gpu, elapsed) - curve_mj(gpu, elapsed - 1.0);
}
