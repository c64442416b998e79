/* A small libnvidia-ml.so.1: two fake GPUs with known values, for tests that run the real nvidia-ml-py binding.
 *
 * FAKE_NVML names a text file, read again at every call, so that a test can change it while a process runs:
 *     gpus 2                                      number of GPUs
 *     error nvmlDeviceGetPowerUsage 3             every call of it returns 3 (NVML_ERROR_NOT_SUPPORTED)
 *     error nvmlDeviceGetPowerUsage:1 15          only for GPU 1
 *     error *:1 15                                every call for GPU 1 returns 15; "error * 18": every call at all
 *     hang nvmlDeviceGetPowerUsage 500            every call of it takes 500 ms before it answers
 *     field 186 3                                 the field value 186 is refused with 3
 *     gpm 60 3                                    the GPM metric 60 is refused with 3
 *     pid 1 77                                    the second of the two processes on every GPU has pid 77; 0: it is not there
 * Running totals (energy, PCIe, NVLink, GPM) advance by a fixed amount a call, so that readings are known without a clock.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIRST ((uintptr_t)0x1000)
#define GPU(device) ((unsigned)((uintptr_t)(device) - FIRST))
#define API __attribute__((visibility("default")))
#define ASK(device) do { unsigned e_ = injected(__func__, (int)GPU(device)); if (e_) return e_; } while (0)
#define ASK_SYSTEM() do { unsigned e_ = injected(__func__, -1); if (e_) return e_; } while (0)

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct { char legacy[16]; unsigned domain, bus, device, device_id, subsystem_id; char bus_id[32]; } pci_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } process_t;
typedef union { double d; unsigned ui; unsigned long ul; unsigned long long ull; long long sll; int si; unsigned short us; } value_t;
typedef struct { unsigned field, scope; int64_t timestamp, latency; unsigned type, ret; value_t value; } field_t;
typedef struct { const char *a, *b, *c; } info_t;
typedef struct { unsigned id, ret; double value; info_t info; } gpm_metric_t;
typedef struct { unsigned version, count; void *first, *second; gpm_metric_t metrics[]; } gpm_get_t;
typedef struct { unsigned version, supported; } gpm_support_t;
typedef struct { unsigned gpu, number; } sample_t;

static int samples_alive;

static unsigned lookup(const char *kind, const char *name, unsigned otherwise) {
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char k[32], n[96], line[160];
    unsigned value, found = otherwise;
    if (!file) return otherwise;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%31s %95s %u", k, n, &value) == 3 && !strcmp(k, kind) && !strcmp(n, name)) found = value;
        else if (!*name && sscanf(line, "%31s %u", k, &value) == 2 && !strcmp(k, kind)) found = value;
    }
    fclose(file);
    return found;
}

static unsigned injected(const char *function, int gpu) {
    char one[96], any[16];
    const char *names[] = {function, one, any, "*"};
    unsigned hang_ms = lookup("hang", function, 0), error = 0;
    if (hang_ms) usleep(hang_ms * 1000);
    snprintf(one, sizeof one, "%s:%d", function, gpu);
    snprintf(any, sizeof any, "*:%d", gpu);
    for (int i = 0; i < 4 && !error; i++) error = lookup("error", names[i], 0);
    return error;
}

static unsigned numbered_or(const char *kind, unsigned id, unsigned otherwise) {
    char name[16];
    snprintf(name, sizeof name, "%u", id);
    return lookup(kind, name, otherwise);
}

static unsigned numbered(const char *kind, unsigned id) { return numbered_or(kind, id, 0); }

API unsigned nvmlInitWithFlags(unsigned flags) { (void)flags; ASK_SYSTEM(); return 0; }
API unsigned nvmlInit_v2(void) { ASK_SYSTEM(); return 0; }
API unsigned nvmlShutdown(void) {
    ASK_SYSTEM();
    if (samples_alive) { fprintf(stderr, "fake_nvml: %d GPM samples leaked\n", samples_alive); return 999; }
    return 0;
}
API const char *nvmlErrorString(unsigned code) { static char text[32]; snprintf(text, sizeof text, "fake error %u", code); return text; }
API unsigned nvmlSystemGetDriverVersion(char *out, unsigned n) { ASK_SYSTEM(); snprintf(out, n, "580.95.05"); return 0; }
API unsigned nvmlSystemGetCudaDriverVersion(int *out) { ASK_SYSTEM(); *out = 13000; return 0; }
API unsigned nvmlDeviceGetCount_v2(unsigned *out) { ASK_SYSTEM(); *out = lookup("gpus", "", 2); return 0; }
API unsigned nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) {
    unsigned e = injected(__func__, (int)index);
    if (e) return e;
    if (index >= lookup("gpus", "", 2)) return 2;
    *out = (void *)(FIRST + index);
    return 0;
}
API unsigned nvmlDeviceGetName(void *d, char *out, unsigned n) { ASK(d); snprintf(out, n, "Fake H100 %u", GPU(d)); return 0; }
API unsigned nvmlDeviceGetUUID(void *d, char *out, unsigned n) { ASK(d); snprintf(out, n, "GPU-fake-%u", GPU(d)); return 0; }
API unsigned nvmlDeviceGetMemoryInfo(void *d, memory_t *m) {
    ASK(d); m->total = 80ULL << 30; m->used = (10ULL + GPU(d)) << 30; m->free = m->total - m->used; return 0;
}
API unsigned nvmlDeviceGetUtilizationRates(void *d, utilization_t *u) { ASK(d); u->gpu = 40 + 10 * GPU(d); u->memory = 25; return 0; }
API unsigned nvmlDeviceGetPowerUsage(void *d, unsigned *mw) { ASK(d); *mw = 350500 + 1000 * GPU(d); return 0; }
API unsigned nvmlDeviceGetEnforcedPowerLimit(void *d, unsigned *mw) { ASK(d); *mw = 700000; return 0; }
API unsigned nvmlDeviceGetTotalEnergyConsumption(void *d, unsigned long long *mj) {
    static unsigned long long calls; ASK(d); *mj = 5000000ULL + 35000ULL * calls++; return 0;
}
API unsigned nvmlDeviceGetClockInfo(void *d, unsigned kind, unsigned *mhz) { ASK(d); *mhz = kind == 1 ? 1980 : kind == 2 ? 2619 : 0; return 0; }
API unsigned nvmlDeviceGetCurrentClocksEventReasons(void *d, unsigned long long *mask) { ASK(d); *mask = GPU(d) ? 0x24 : 1; return 0; }
API unsigned nvmlDeviceGetCurrentClocksThrottleReasons(void *d, unsigned long long *mask) { ASK(d); *mask = 0x8; return 0; }
API unsigned nvmlDeviceGetTemperature(void *d, unsigned sensor, unsigned *celsius) { ASK(d); if (sensor) return 2; *celsius = 55 + GPU(d); return 0; }
API unsigned nvmlDeviceGetPcieThroughput(void *d, unsigned counter, unsigned *kib) { ASK(d); *kib = counter ? 2048 : 1024; return 0; }
API unsigned nvmlDeviceGetFieldValues(void *d, int n, field_t *fields) {
    static unsigned long long calls;
    ASK(d);
    calls++;
    for (int i = 0; i < n; i++) {
        field_t *f = fields + i;
        f->ret = numbered("field", f->field);
        if (f->ret) continue;
        switch (f->field) {
        case 186: f->type = 1; f->value.ui = 402250; break;                               /* POWER_INSTANT, mW */
        case 138: case 139:                                                               /* NVLink totals, KiB, all links */
            if (f->scope != 0xFFFFFFFFu) { f->ret = 2; break; }
            f->type = 3; f->value.ull = 1000 * calls; break;
        case 197: case 198: f->type = 3; f->value.ull = 4096 * calls; break;              /* PCIe totals, bytes */
        default: f->ret = 3;
        }
    }
    return 0;
}
API unsigned nvmlGpmQueryDeviceSupport(void *d, gpm_support_t *s) { ASK(d); if (s->version != 1) return 25; s->supported = 1; return 0; }
API unsigned nvmlGpmSampleAlloc(void **out) { ASK_SYSTEM(); *out = calloc(1, sizeof(sample_t)); samples_alive++; return 0; }
API unsigned nvmlGpmSampleFree(void *sample) { ASK_SYSTEM(); free(sample); samples_alive--; return 0; }
API unsigned nvmlGpmSampleGet(void *d, void *out) {
    static unsigned number;
    ASK(d);
    ((sample_t *)out)->gpu = GPU(d); ((sample_t *)out)->number = ++number;
    return 0;
}
API unsigned nvmlGpmMetricsGet(gpm_get_t *g) {
    ASK_SYSTEM();
    if (g->version != 1) return 25;
    sample_t *a = g->first, *b = g->second;
    if (!a->number || b->number <= a->number || a->gpu != b->gpu) return 2;               /* in order, and of one GPU */
    for (unsigned i = 0; i < g->count; i++) {
        gpm_metric_t *m = g->metrics + i;
        m->ret = numbered("gpm", m->id);
        if (m->ret) continue;
        switch (m->id) {
        case 2: m->value = 62.5; break;
        case 3: m->value = 30.0 + a->gpu; break;
        case 5: m->value = 45.0; break;
        case 10: m->value = 80.0; break;
        case 20: m->value = 1.5; break;
        case 21: m->value = 2.5; break;
        case 60: m->value = 200.0; break;
        case 61: m->value = 100.0; break;
        default: m->ret = 2;
        }
    }
    return 0;
}
API unsigned nvmlDeviceGetCudaComputeCapability(void *d, int *major, int *minor) { ASK(d); *major = 9; *minor = 0; return 0; }
API unsigned nvmlDeviceGetCurrPcieLinkGeneration(void *d, unsigned *g) { ASK(d); *g = 5; return 0; }
API unsigned nvmlDeviceGetCurrPcieLinkWidth(void *d, unsigned *w) { ASK(d); *w = 16; return 0; }
API unsigned nvmlDeviceGetNumaNodeId(void *d, int *node) { ASK(d); *node = (int)GPU(d); return 0; }
API unsigned nvmlDeviceGetMigMode(void *d, unsigned *now, unsigned *pending) { ASK(d); *now = *pending = 0; return 0; }
API unsigned nvmlDeviceGetPciInfo_v3(void *d, pci_t *p) {
    ASK(d); memset(p, 0, sizeof *p); p->bus = 0x18 + GPU(d); snprintf(p->bus_id, 32, "00000000:%02X:00.0", p->bus); return 0;
}
API unsigned nvmlDeviceGetNvLinkState(void *d, unsigned link, unsigned *active) { ASK(d); if (link >= 18) return 2; *active = link < 6; return 0; }
API unsigned nvmlDeviceGetNvLinkRemoteDeviceType(void *d, unsigned link, unsigned *type) {
    (void)link; ASK(d); *type = lookup("switch", "", 0) ? 2 : 0; return 0;
}
API unsigned nvmlDeviceGetNvLinkRemotePciInfo_v2(void *d, unsigned link, pci_t *p) {
    (void)link; ASK(d); memset(p, 0, sizeof *p); p->bus = 0x18 + !GPU(d); return 0;
}
API unsigned nvmlDeviceGetComputeRunningProcesses_v3(void *d, unsigned *n, process_t *out) {
    ASK(d);
    unsigned pids[2] = {numbered_or("pid", 0, 4242), numbered_or("pid", 1, 4343)}, room = out ? *n : 0, found = 0;
    for (unsigned i = 0; i < 2; i++) {
        if (!pids[i]) continue;
        if (found < room) out[found] = (process_t){pids[i], i ? ~0ULL : 8ULL << 30, 0xFFFFFFFFu, 0xFFFFFFFFu};
        found++;
    }
    *n = found;
    return found > room ? 7 : 0;
}
