/* A device that is the processor: runs the shaders of kernels.cpp over the grid, a fiber a thread.
 *
 * A fiber runs to the next barrier, then the following one does, so that every thread of a threadgroup is there before
 * any goes on. QUENCH_SHIM_FLUSH=1 runs the shaders with subnormals read and written as zeros, as the GPU does;
 * QUENCH_SHIM_REVERSE=1 runs the threads backwards, which shows a result that depends on their order. To be a device
 * that is not there or not to be trusted: QUENCH_SHIM_ABSENT=1, QUENCH_SHIM_FUSE=1. */
#include "driver.h"

#include <ucontext.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "device.h"
#include "metal_stdlib"

namespace {

#if defined(__x86_64__)
unsigned float_mode() { return __builtin_ia32_stmxcsr(); }
void set_float_mode(unsigned mode) { __builtin_ia32_ldmxcsr(mode); }
const unsigned FLUSH = 0x8040; /* results and operands */
#elif defined(__aarch64__)
unsigned float_mode() {
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return unsigned(mode);
}
void set_float_mode(unsigned mode) {
    uint64_t wide = mode;
    __asm__ volatile("msr fpcr, %0" : : "r"(wide));
}
const unsigned FLUSH = 1u << 24;
#else
#  error "no such processor in this test"
#endif

bool is_set(const char *name) {
    const char *value = std::getenv(name);
    return value && *value == '1';
}

const size_t STACK = 256 * 1024;

struct fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    binding at;
    bool done;
};

std::atomic<uint64_t> encoded, left_alone;

thread_local fiber *current;
thread_local ucontext_t scheduler;
thread_local void (*body)(const binding &);

void enter() {
    body(current->at);
    current->done = true;
    swapcontext(&current->context, &scheduler);
}

void run_group(std::vector<fiber> &fibers, const binding &group) {
    for (size_t i = 0; i < fibers.size(); i++) {
        fiber &one = fibers[i];
        one.at = group;
        one.at.thread_index = uint32_t(i);
        one.done = false;
        getcontext(&one.context);
        one.context.uc_stack.ss_sp = one.stack.get();
        one.context.uc_stack.ss_size = STACK;
        one.context.uc_link = nullptr;
        makecontext(&one.context, enter, 0);
    }
    const bool reverse = is_set("QUENCH_SHIM_REVERSE");
    for (bool any = true; any;) {
        any = false;
        for (size_t i = 0; i < fibers.size(); i++) {
            current = &fibers[reverse ? fibers.size() - 1 - i : i];
            if (!current->done) {
                swapcontext(&scheduler, &current->context);
                any = any || !current->done;
            }
        }
    }
}

void run_grid(const named_kernel &one, binding at, uint32_t groups) {
    std::vector<char> shared(QUENCH_METAL_SHARED_BYTES);
    std::vector<fiber> fibers(one.has_barriers ? at.threads : 0);
    for (fiber &each : fibers) {
        each.stack.reset(new char[STACK]);
    }
    body = one.run;
    at.shared = shared.data();
    for (at.group_index = 0; at.group_index < groups; at.group_index++) {
        if (!fibers.empty()) {
            run_group(fibers, at);
            continue;
        }
        for (at.thread_index = 0; at.thread_index < at.threads; at.thread_index++) {
            one.run(at);
        }
    }
}

} // namespace

void metal::threadgroup_barrier(metal::mem_flags) {
    swapcontext(&current->context, &scheduler);
}

extern "C" {

int quench_metal_device(char *name, size_t size) {
    if (is_set("QUENCH_SHIM_ABSENT")) {
        return 0;
    }
    std::strncpy(name, "shim", size);
    return 1;
}

/* What a device that contracts makes of the probe. */
static void fuse(const binding &at) {
    const float *in = reinterpret_cast<const float *>(at.spans[0]);
    float *out = reinterpret_cast<float *>(at.spans[1]);
    for (uint32_t i = 0; i < at.job->count; i++) {
        out[3 * i] = std::fma(in[3 * i], in[3 * i + 1], in[3 * i + 2]);
    }
}

/* Blocks that encoders saw since the last call, and those that they left to the processor. */
void quench_shim_counts(uint64_t counts[2]) {
    counts[0] = encoded.exchange(0);
    counts[1] = left_alone.exchange(0);
}

int quench_metal_run(const char *kernel_name, const struct metal_job *job, const struct metal_span *spans, int n_spans,
                     uint32_t groups, uint32_t threads) {
    for (int i = 0; i < shim_kernel_count; i++) {
        if (std::strcmp(shim_kernels[i].name, kernel_name) != 0) {
            continue;
        }
        binding at = {};
        at.job = job;
        at.threads = threads;
        for (int span = 0; span < n_spans; span++) {
            at.spans[span] = static_cast<unsigned char *>(const_cast<void *>(spans[span].bytes));
        }
        const unsigned saved = float_mode();
        set_float_mode(saved | (is_set("QUENCH_SHIM_FLUSH") ? FLUSH : 0));
        run_grid(shim_kernels[i], at, groups);
        set_float_mode(saved);
        if (std::strcmp(kernel_name, "probe_arithmetic") == 0 && is_set("QUENCH_SHIM_FUSE")) {
            fuse(at);
        }
        if (std::strncmp(kernel_name, "encode_", 7) == 0) {
            encoded += job->count;
            for (uint32_t block = 0; block < job->count; block++) {
                left_alone += at.spans[4][block];
            }
        }
        return 1;
    }
    return 0;
}
}
