/* What the processor can do, and the floating-point mode of the calling thread. */
#include <stdio.h>
#include <string.h>

#include "backend.h"

#if defined(__x86_64__) || defined(_M_X64) || defined(__i386__) || defined(_M_IX86)
#  define QUENCH_X86 1
#  include <immintrin.h>
#  if defined(_MSC_VER)
#    include <intrin.h>
#  else
#    include <cpuid.h>
#  endif
#elif defined(__aarch64__) || defined(_M_ARM64)
#  define QUENCH_ARM64 1
#  if defined(__linux__)
#    include <sys/auxv.h>
#  elif defined(__APPLE__)
#    include <sys/sysctl.h>
#  endif
#endif

/* MSVC has no C11 atomics, but its volatile accesses of aligned words are whole on every processor it knows. */
#if defined(__STDC_NO_ATOMICS__)
#  define SHARED volatile
#else
#  define SHARED _Atomic
#endif

static const struct {
    uint64_t feature;
    const char *name;
} feature_names[] = {
    {CPU_AVX2, "avx2"},     {CPU_F16C, "f16c"},
    {CPU_FMA, "fma"},       {CPU_AVX512, "avx512"},
    {CPU_AVX512_VNNI, "avx512-vnni"}, {CPU_NEON, "neon"},
    {CPU_DOTPROD, "dotprod"},
};

#if defined(QUENCH_X86)

static void cpuid(unsigned leaf, unsigned sub, unsigned out[4]) {
#if defined(_MSC_VER)
    __cpuidex((int *)out, (int)leaf, (int)sub);
#else
    __cpuid_count(leaf, sub, out[0], out[1], out[2], out[3]);
#endif
}

/* Which register files the operating system saves: bits 1 and 2 for AVX, 5 to 7 for AVX-512. */
static uint64_t enabled_states(void) {
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
#endif
}

#define HAS(reg, bit) (((reg) >> (bit)) & 1u)

static uint64_t detect(void) {
    unsigned first[4], leaf[4], more[4];
    uint64_t features = 0;
    cpuid(0, 0, first);
    if (first[0] < 7) {
        return 0;
    }
    cpuid(1, 0, leaf);
    cpuid(7, 0, more);
    if (!HAS(leaf[2], 27)) { /* OSXSAVE */
        return 0;
    }
    uint64_t states = enabled_states();
    if ((states & 0x06) == 0x06) {
        features |= HAS(leaf[2], 12) ? CPU_FMA : 0;
        features |= HAS(leaf[2], 29) ? CPU_F16C : 0;
        features |= HAS(more[1], 5) ? CPU_AVX2 : 0;
    }
    if ((states & 0xe6) == 0xe6) {
        if (HAS(more[1], 16) && HAS(more[1], 17) && HAS(more[1], 30) && HAS(more[1], 31)) {
            features |= CPU_AVX512;
            features |= HAS(more[2], 11) ? CPU_AVX512_VNNI : 0;
        }
    }
    return features;
}

static void brand(char *text, size_t size) {
    unsigned words[12] = {0}, top[4];
    char raw[sizeof words + 1];
    cpuid(0x80000000u, 0, top);
    for (unsigned part = 0; part < 3 && top[0] >= 0x80000004u; part++) {
        cpuid(0x80000002u + part, 0, words + 4 * part);
    }
    memcpy(raw, words, sizeof words);
    raw[sizeof words] = '\0';
    const char *start = raw;
    while (*start == ' ') {
        start++;
    }
    size_t length = strlen(start);
    while (length > 0 && start[length - 1] == ' ') {
        length--;
    }
    snprintf(text, size, "%.*s", (int)length, length ? start : "");
    if (!length) {
        snprintf(text, size, "x86");
    }
}

uint64_t quench_enter_ieee(void) {
    unsigned saved = _mm_getcsr();
    _mm_setcsr(0x1f80u); /* all exceptions masked, nearest, denormals kept */
    return saved;
}

void quench_leave_ieee(uint64_t saved) {
    _mm_setcsr((unsigned)saved);
}

#elif defined(QUENCH_ARM64)

static uint64_t detect(void) {
    uint64_t features = CPU_NEON;
#if defined(__linux__)
    features |= (getauxval(AT_HWCAP) >> 20) & 1u ? CPU_DOTPROD : 0; /* HWCAP_ASIMDDP */
#elif defined(__APPLE__)
    int present = 0;
    size_t size = sizeof present;
    if (sysctlbyname("hw.optional.arm.FEAT_DotProd", &present, &size, NULL, 0) == 0 && present) {
        features |= CPU_DOTPROD;
    }
#endif
    return features;
}

static void brand(char *text, size_t size) {
#if defined(__APPLE__)
    size_t length = size;
    if (sysctlbyname("machdep.cpu.brand_string", text, &length, NULL, 0) == 0) {
        return;
    }
#endif
    snprintf(text, size, "arm64");
}

#if defined(_MSC_VER)
#  include <intrin.h>
uint64_t quench_enter_ieee(void) {
    uint64_t saved = (uint64_t)_ReadStatusReg(ARM64_FPCR);
    _WriteStatusReg(ARM64_FPCR, 0);
    return saved;
}

void quench_leave_ieee(uint64_t saved) {
    _WriteStatusReg(ARM64_FPCR, (__int64)saved);
}
#else
uint64_t quench_enter_ieee(void) {
    uint64_t saved, ieee = 0;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    __asm__ volatile("msr fpcr, %0" : : "r"(ieee));
    return saved;
}

void quench_leave_ieee(uint64_t saved) {
    __asm__ volatile("msr fpcr, %0" : : "r"(saved));
}
#endif

#else

static uint64_t detect(void) {
    return 0;
}

static void brand(char *text, size_t size) {
    snprintf(text, size, "unknown processor");
}

uint64_t quench_enter_ieee(void) {
    return 0;
}

void quench_leave_ieee(uint64_t saved) {
    (void)saved;
}

#endif

/* CPUID leaves a virtual machine and costs more than a short dot product. Threads that race here write the same. */
uint64_t quench_cpu_features(void) {
    static SHARED uint64_t known; /* the top bit marks it as set */
    uint64_t features = known;
    if (!features) {
        features = detect() | (uint64_t)1 << 63;
        known = features;
    }
    return features & ~((uint64_t)1 << 63);
}

int32_t quench_cpu(char *text, size_t size) {
    if (!text || size == 0) {
        return QUENCH_BAD_BUFFER;
    }
    const uint64_t features = quench_cpu_features();
    brand(text, size);
    for (size_t i = 0; i < sizeof feature_names / sizeof *feature_names; i++) {
        size_t used = strlen(text);
        if (features & feature_names[i].feature) {
            snprintf(text + used, size - used, "%s%s", strchr(text, '(') ? " " : " (", feature_names[i].name);
        }
    }
    if (strchr(text, '(')) {
        size_t used = strlen(text);
        snprintf(text + used, size - used, ")");
    }
    return QUENCH_OK;
}
