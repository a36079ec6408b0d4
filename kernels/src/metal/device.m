/* The device: Metal on Apple silicon. Compiled with automatic reference counting; nothing outlives a call but the
 * device, its queue, the shaders' library and one pipeline a kernel. */
#import <Foundation/Foundation.h>
#import <Metal/Metal.h>

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "device.h"

/* The text of job.h and all *.metal files; made by embed.cmake. */
extern const char quench_metal_shaders[];

/* Up to here, bytes travel inside the command. */
enum { INLINE_BYTES = 4096 };

static id<MTLDevice> device;
static id<MTLCommandQueue> queue;
static id<MTLLibrary> library;
static NSMutableDictionary<NSString *, id<MTLComputePipelineState>> *pipelines;
static pthread_once_t looked = PTHREAD_ONCE_INIT, compiled = PTHREAD_ONCE_INIT;
static pthread_mutex_t pipelines_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- once ---- */

static void look(void) {
    @autoreleasepool {
        id<MTLDevice> candidate = MTLCreateSystemDefaultDevice();
        if (candidate && candidate.hasUnifiedMemory && [candidate supportsFamily:MTLGPUFamilyApple7]) {
            queue = [candidate newCommandQueue];
            device = queue ? candidate : nil;
        }
    }
}

static MTLCompileOptions *exact_options(void) {
    MTLCompileOptions *options = [MTLCompileOptions new];
#if defined(__MAC_15_0)
    if (@available(macOS 15.0, *)) {
        options.mathMode = MTLMathModeSafe;
        options.mathFloatingPointFunctions = MTLMathFloatingPointFunctionsPrecise;
        return options;
    }
#endif
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wdeprecated-declarations"
    options.fastMathEnabled = NO;
#pragma clang diagnostic pop
    return options;
}

static void compile(void) {
    @autoreleasepool {
        NSError *error = nil;
        NSString *source = [NSString stringWithUTF8String:quench_metal_shaders];
        library = [device newLibraryWithSource:source options:exact_options() error:&error];
        pipelines = [NSMutableDictionary new];
        if (!library) {
            NSLog(@"The Metal shaders do not compile: %@", error.localizedDescription);
        }
    }
}

static id<MTLComputePipelineState> pipeline_of(const char *kernel) {
    NSString *name = [NSString stringWithUTF8String:kernel];
    pthread_mutex_lock(&pipelines_lock);
    id<MTLComputePipelineState> pipeline = pipelines[name];
    if (!pipeline) {
        NSError *error = nil;
        id<MTLFunction> function = [library newFunctionWithName:name];
        pipeline = function ? [device newComputePipelineStateWithFunction:function error:&error] : nil;
        if (pipeline) {
            pipelines[name] = pipeline;
        } else {
            NSLog(@"The Metal kernel %@ cannot be made: %@", name, error.localizedDescription);
        }
    }
    pthread_mutex_unlock(&pipelines_lock);
    return pipeline;
}

/* ---- memory ---- */

/* The caller's own pages: from the span's first to its last, all of which the caller has mapped. */
static id<MTLBuffer> borrow(const struct metal_span *span, NSUInteger *offset) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = (uintptr_t)span->bytes;
    const uintptr_t first = start / page * page, end = (start + span->size + page - 1) / page * page;
    *offset = start - first;
    if (end - first > device.maxBufferLength) {
        return nil;
    }
    return [device newBufferWithBytesNoCopy:(void *)first
                                     length:end - first
                                    options:MTLResourceStorageModeShared
                                deallocator:nil];
}

/* What is written gets memory of its own, since the pages at its ends may be another thread's at the same time. */
static id<MTLBuffer> buffer_for(const struct metal_span *span, NSUInteger *offset) {
    id<MTLBuffer> buffer = span->use == METAL_READ ? borrow(span, offset) : nil;
    if (buffer) {
        return buffer;
    }
    *offset = 0;
    if (span->use == METAL_FILLED) {
        return [device newBufferWithLength:span->size options:MTLResourceStorageModeShared];
    }
    return [device newBufferWithBytes:span->bytes length:span->size options:MTLResourceStorageModeShared];
}

/* Binds the spans; 0 if there is no memory for one of them. */
static int bind(id<MTLComputeCommandEncoder> encoder, const struct metal_span *spans, int n_spans,
                __strong id<MTLBuffer> *buffers) {
    for (int i = 0; i < n_spans; i++) {
        const NSUInteger index = (NSUInteger)i + 1;
        NSUInteger offset = 0;
        if (spans[i].use == METAL_READ && spans[i].size <= INLINE_BYTES) {
            [encoder setBytes:spans[i].bytes length:spans[i].size atIndex:index];
            continue;
        }
        buffers[i] = buffer_for(&spans[i], &offset);
        if (!buffers[i]) {
            return 0;
        }
        [encoder setBuffer:buffers[i] offset:offset atIndex:index];
    }
    return 1;
}

static void give_back(const struct metal_span *spans, int n_spans, __strong id<MTLBuffer> *buffers) {
    for (int i = 0; i < n_spans; i++) {
        if (spans[i].use != METAL_READ) {
            memcpy((void *)spans[i].bytes, buffers[i].contents, spans[i].size);
        }
    }
}

/* ---- the interface ---- */

int quench_metal_device(char *name, size_t size) {
    pthread_once(&looked, look);
    if (!device) {
        return 0;
    }
    @autoreleasepool {
        strlcpy(name, device.name.UTF8String, size);
    }
    return 1;
}

static int run(id<MTLComputePipelineState> pipeline, const struct metal_job *job, const struct metal_span *spans,
               int n_spans, uint32_t groups, uint32_t threads) {
    id<MTLBuffer> buffers[METAL_MOST_SPANS] = {nil};
    id<MTLCommandBuffer> commands = [queue commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
    if (!encoder) {
        return 0;
    }
    [encoder setComputePipelineState:pipeline];
    [encoder setBytes:job length:sizeof *job atIndex:0];
    const int bound = bind(encoder, spans, n_spans, buffers);
    if (bound) {
        [encoder setThreadgroupMemoryLength:QUENCH_METAL_SHARED_BYTES atIndex:0];
        [encoder dispatchThreadgroups:MTLSizeMake(groups, 1, 1) threadsPerThreadgroup:MTLSizeMake(threads, 1, 1)];
    }
    [encoder endEncoding];
    if (!bound) {
        return 0;
    }
    [commands commit];
    [commands waitUntilCompleted];
    if (commands.status != MTLCommandBufferStatusCompleted) {
        NSLog(@"A Metal command failed: %@", commands.error.localizedDescription);
        return 0;
    }
    give_back(spans, n_spans, buffers);
    return 1;
}

int quench_metal_run(const char *kernel, const struct metal_job *job, const struct metal_span *spans, int n_spans,
                     uint32_t groups, uint32_t threads) {
    pthread_once(&looked, look);
    if (!device || n_spans > METAL_MOST_SPANS) {
        return 0;
    }
    @autoreleasepool {
        pthread_once(&compiled, compile);
        id<MTLComputePipelineState> pipeline = library ? pipeline_of(kernel) : nil;
        return pipeline && pipeline.maxTotalThreadsPerThreadgroup >= threads &&
               run(pipeline, job, spans, n_spans, groups, threads);
    }
}
