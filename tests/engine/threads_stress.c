/* Regions as the engine's: members meet after every piece of work. Built twice, as a libggml-cpu, whose regions our
 * threads serve, and under another name, whose regions the compiler's own runtime must get. */
#include <omp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

enum { MOST = 64 };

struct stage {
    unsigned seen[MOST][16]; /* each member's last piece of work, a cache line each; no atomics, as meetings order it */
};

static unsigned next(unsigned *seed)
{
    return *seed = *seed * 1664525u + 1013904223u;
}

/* Not as a reduction: sanitizers do not see the runtime's way to add. */
static void add(int *sum, int value)
{
    __atomic_fetch_add(sum, value, __ATOMIC_RELAXED);
}

/* Every member does some work of uneven length, and sees everybody's after the meeting. */
static int region(struct stage *stage, unsigned threads, unsigned meetings, unsigned seed)
{
    int size = 0, errors = 0, singles = 0;
#pragma omp parallel num_threads(threads)
    {
        int wrong = 0;
#pragma omp single
        size = omp_get_num_threads();
        int me = omp_get_thread_num();
        unsigned mine = seed + (unsigned)me;
        wrong += me < 0 || me >= size || size > (int)threads;
        for (unsigned meeting = 1; meeting <= meetings; meeting++) {
            for (volatile unsigned work = next(&mine) >> 22; work > 0; work--) {
            }
            stage->seen[me][0] = seed + meeting;
#pragma omp barrier
            for (int i = 0; i < size; i++)
                wrong += stage->seen[i][0] != seed + meeting;
#pragma omp single
            singles++;
        }
        add(&errors, wrong);
    }
    return errors + (singles != (int)meetings);
}

/* Errors in so many regions of changing sizes up to `most` threads. */
int stress(unsigned regions, unsigned most, unsigned seed)
{
    struct stage *stage = calloc(1, sizeof *stage);
    int errors = 0;
    for (unsigned i = 0; i < regions; i++) {
        unsigned value = next(&seed);
        errors += region(stage, 1 + (value >> 16) % most, value >> 24 & 31, value);
    }
    free(stage);
    return errors;
}

struct part {
    unsigned regions, most, seed;
    int errors;
};

static void *run_part(void *argument)
{
    struct part *part = argument;
    part->errors = stress(part->regions, part->most, part->seed);
    return NULL;
}

/* The same from `callers` threads at a time. */
int stress_together(unsigned callers, unsigned regions, unsigned most)
{
    struct part parts[MOST];
    pthread_t threads[MOST];
    int errors = 0;
    for (unsigned i = 0; i < callers; i++) {
        parts[i] = (struct part){regions, most, i + 1, 0};
        pthread_create(&threads[i], NULL, run_part, &parts[i]);
    }
    for (unsigned i = 0; i < callers; i++) {
        pthread_join(threads[i], NULL);
        errors += parts[i].errors;
    }
    return errors;
}

/* A region in each member of a region, and after it the outer one goes on. */
int nested(unsigned threads)
{
    int inner = 0, errors = 0, members = 0;
#pragma omp parallel num_threads(threads)
    {
        int me = omp_get_thread_num();
        add(&members, 1);
#pragma omp parallel num_threads(threads)
        add(&inner, 1);
        add(&errors, omp_get_thread_num() != me);
#pragma omp barrier
    }
    return errors + (inner < members);
}

/* What our library does not have: work that is shared out as threads come for it. */
int64_t shared_loop(int64_t count, unsigned threads)
{
    int64_t sum = 0;
#pragma omp parallel for schedule(dynamic, 3) num_threads(threads) reduction(+ : sum)
    for (int64_t i = 0; i < count; i++)
        sum += i;
    return sum;
}
