/* The part of an OpenMP runtime that the engine's graphs use, with threads that wait as long as waiting pays.
 *
 * Threads of one computation meet hundreds of times a token. One that sleeps at once must be woken each time; one that
 * looks on holds a core that others want, and with them the very thread that it waits for. No fixed patience suits a
 * quiet and a busy machine. Here each thread may waste a fixed share of its time: looks that end well are free, those
 * that end in sleep are paid from what has been saved up. So threads look long while that is right, and on a busy
 * machine fall to almost nothing, at a bounded cost. A thread that waits for one which was last seen on its own core
 * knows that looking is in vain.
 *
 * Loaded before the engine and for everybody (RTLD_GLOBAL), its functions stand before libgomp's of the same names.
 * Only regions of libggml-cpu are served; all other calls go to the runtime that their caller is linked with. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))
#define LINE 128 /* bytes that processors hand to each other at once: two lines of a cache, fetched as a pair */

enum {
    MOST_MEMBERS = 512, /* of a team; more are another runtime's */
    GLANCES = 64,       /* looks before a clock is asked: a few hundred nanoseconds to two microseconds */
    LOOKS = 32,         /* looks between two readings of the clock */
    NOWHERE = 0xffff    /* stands for no processor */
};

static const int64_t LONGEST = 3000000; /* nanoseconds that a thread looks for at most, a program's burst of work */
static const int64_t SHARE = 40;        /* one part in so many of the time may be looked away in vain */

typedef void region(void *data);

/* What a thread may still waste on one kind of wait, in nanoseconds, and since when it has earned no more. */
struct patience {
    int64_t left, since;
};

struct team;

/* One thread's place in a team. Others read the first line, the rest is its own while it runs a region. */
struct member {
    _Alignas(LINE) atomic_uint turn; /* counts the regions that it was asked to take part in */
    atomic_uint asleep;              /* it sleeps, or is about to, until its next turn */
    atomic_uint place;               /* the meeting that it reached last, and its processor then: 16 bits each */
    _Alignas(LINE) struct patience meeting;
    struct patience idle;
    struct team *team;
    unsigned number;
    unsigned singles;
};

/* Threads that run regions together. Member 0 is whoever begins a region; the others are threads of ours. */
struct team {
    _Alignas(LINE) atomic_uint arrived;
    _Alignas(LINE) atomic_uint meeting;
    atomic_uint sleepers;
    _Alignas(LINE) atomic_uint running;
    atomic_uint begun_asleep; /* member 0 sleeps until nobody is running */
    atomic_uint singles;
    _Alignas(LINE) region *run;
    void *data;
    unsigned count, made;
    struct team *next;
    struct member *member[MOST_MEMBERS];
};

static _Thread_local struct member *self; /* in a region of ours, else NULL */

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* Sleeps while *word is value; may return early. */
static void sleep_on(atomic_uint *word, unsigned value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void wake(atomic_uint *word, int threads)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, threads, NULL, NULL, 0);
}

static inline bool changed(atomic_uint *word, unsigned value, int looks)
{
    for (int look = 0; look < looks; look++) {
        if (atomic_load_explicit(word, memory_order_acquire) != value)
            return true;
        relax();
    }
    return false;
}

/* Whether *word changed from value while it paid to look. */
static bool look(atomic_uint *word, unsigned value, struct patience *patience)
{
    int64_t start = now(), time = start;
    patience->left += (start - patience->since) / SHARE;
    if (patience->left > LONGEST)
        patience->left = LONGEST;
    patience->since = start;
    while (time - start < patience->left) {
        if (changed(word, value, LOOKS))
            return true;
        time = now();
    }
    patience->left -= time - start;
    if (patience->left < 0)
        patience->left = 0;
    patience->since = time;
    return false;
}

static unsigned place_of(unsigned meeting, unsigned processor)
{
    return meeting << 16 | (processor & NOWHERE);
}

/* Whether a member that has not reached this meeting was last seen on my processor: it cannot come while I look. */
static bool holds_up_a_member(const struct team *team, const struct member *me)
{
    unsigned mine = atomic_load_explicit(&me->place, memory_order_relaxed);
    for (unsigned i = 0; i < team->count; i++) {
        unsigned place = atomic_load_explicit(&team->member[i]->place, memory_order_relaxed);
        if (place != mine && (place & NOWHERE) == (mine & NOWHERE))
            return true;
    }
    return false;
}

/* Whether whoever begins the regions was last seen on my processor: it cannot begin one while I look. */
static bool holds_up_the_first(const struct team *team, const struct member *me)
{
    unsigned first = atomic_load_explicit(&team->member[0]->place, memory_order_relaxed);
    unsigned mine = atomic_load_explicit(&me->place, memory_order_relaxed);
    return ((first ^ mine) & NOWHERE) == 0 && (mine & NOWHERE) != NOWHERE;
}

static void meet(struct team *team, struct member *me)
{
    unsigned meeting = atomic_load_explicit(&team->meeting, memory_order_acquire);
    atomic_store_explicit(&me->place, place_of(meeting, (unsigned)sched_getcpu()), memory_order_relaxed);
    if (atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel) + 1 == team->count) {
        atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
        /* Sequentially consistent, as is the sleeper's pair: either it sees the meeting over, or we see it. */
        atomic_store(&team->meeting, meeting + 1);
        if (atomic_load(&team->sleepers))
            wake(&team->meeting, INT_MAX);
        return;
    }
    if (changed(&team->meeting, meeting, GLANCES))
        return;
    if (!holds_up_a_member(team, me) && look(&team->meeting, meeting, &me->meeting))
        return;
    atomic_fetch_add(&team->sleepers, 1);
    while (atomic_load(&team->meeting) == meeting)
        sleep_on(&team->meeting, meeting);
    atomic_fetch_sub(&team->sleepers, 1);
}

static void take_part(struct member *me)
{
    me->singles = 0;
    self = me;
    me->team->run(me->team->data);
    self = NULL;
}

/* A thread of ours: waits for its turn, for ever. */
static void *serve(void *argument)
{
    struct member *me = argument;
    struct team *team = me->team;
    for (unsigned turn = 0;; turn++) {
        if (!changed(&me->turn, turn, GLANCES) && (holds_up_the_first(team, me) || !look(&me->turn, turn, &me->idle))) {
            atomic_store(&me->asleep, 1);
            while (atomic_load(&me->turn) == turn)
                sleep_on(&me->turn, turn);
            atomic_store(&me->asleep, 0);
        }
        take_part(me);
        if (atomic_fetch_sub(&team->running, 1) == 1 && atomic_load(&team->begun_asleep))
            wake(&team->running, 1);
    }
    return NULL;
}

static void wait_for_all(struct team *team)
{
    struct member *me = team->member[0];
    unsigned running;
    /* Members end a region within moments of each other, or it has met nobody and any of them may take long. */
    while ((running = atomic_load_explicit(&team->running, memory_order_acquire)) != 0) {
        if (changed(&team->running, running, GLANCES) || look(&team->running, running, &me->idle))
            continue;
        atomic_store(&team->begun_asleep, 1);
        while ((running = atomic_load(&team->running)) != 0)
            sleep_on(&team->running, running);
        atomic_store(&team->begun_asleep, 0);
    }
}

/* Teams that run nothing. As many are made as regions ever run at a time. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct team *idle;

static void *zeroed(size_t size)
{
    void *memory = aligned_alloc(LINE, size); /* both structures are whole lines */
    return memory ? memset(memory, 0, size) : NULL;
}

static struct member *make_member(struct team *team)
{
    struct member *member = zeroed(sizeof *member);
    if (member) {
        member->team = team;
        member->number = team->made;
        atomic_store_explicit(&member->place, NOWHERE, memory_order_relaxed);
        team->member[team->made++] = member;
    }
    return member;
}

/* An idle team, or a new one; NULL without memory. */
static struct team *take_team(void)
{
    pthread_mutex_lock(&lock);
    struct team *team = idle;
    if (team)
        idle = team->next;
    pthread_mutex_unlock(&lock);
    if (team)
        return team;
    team = zeroed(sizeof *team);
    if (team && !make_member(team)) {
        free(team);
        return NULL;
    }
    return team;
}

static void give_back(struct team *team)
{
    pthread_mutex_lock(&lock);
    team->next = idle;
    idle = team;
    pthread_mutex_unlock(&lock);
}

/* Threads of ours until there are count members, or fewer if the system gives no more. */
static void grow(struct team *team, unsigned count)
{
    pthread_attr_t detached;
    if (team->made >= count || pthread_attr_init(&detached) != 0)
        return;
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    while (team->made < count) {
        struct member *member = make_member(team);
        pthread_t thread;
        if (!member)
            break;
        if (pthread_create(&thread, &detached, serve, member) != 0) {
            team->made--;
            free(member);
            break;
        }
    }
    pthread_attr_destroy(&detached);
}

static void run_together(struct team *team, region *run, void *data, unsigned count)
{
    grow(team, count);
    if (count > team->made)
        count = team->made;
    team->run = run;
    team->data = data;
    team->count = count;
    atomic_store_explicit(&team->singles, 0, memory_order_relaxed);
    atomic_store_explicit(&team->running, count - 1, memory_order_relaxed);
    for (unsigned i = 1; i < count; i++) {
        struct member *member = team->member[i];
        atomic_fetch_add(&member->turn, 1); /* publishes all of the above; a pair with asleep, as in a meeting */
        if (atomic_load(&member->asleep))
            wake(&member->turn, 1);
    }
    take_part(team->member[0]);
    wait_for_all(team);
}

/* The function name of the runtime that the library around address is linked with, or NULL. */
static void *theirs(const char *name, const void *address)
{
    Dl_info caller;
    if (!dladdr(address, &caller))
        return NULL;
    void *library = dlopen(caller.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    if (!library)
        return NULL;
    void *function = dlsym(library, name);
    dlclose(library); /* it stays: it is running */
    return function;
}

static bool serves(const void *address)
{
    Dl_info owner;
    if (!dladdr(address, &owner))
        return false;
    const char *folder = strrchr(owner.dli_fname, '/');
    return strncmp(folder ? folder + 1 : owner.dli_fname, "libggml-cpu", strlen("libggml-cpu")) == 0;
}

typedef void parallel(region *run, void *data, unsigned count, unsigned flags);

PUBLIC void GOMP_parallel(region *run, void *data, unsigned count, unsigned flags)
{
    static _Thread_local region *served; /* the last one: asking costs a microsecond */
    struct member *outer = self;
    struct team *team = NULL;
    self = NULL;
    if (count != 0 && count <= MOST_MEMBERS && flags == 0 && (run == served || serves((const void *)run))) {
        served = run;
        team = take_team();
    }
    if (team) {
        run_together(team, run, data, outer ? 1 : count); /* one in another runs alone, as is usual */
        give_back(team);
    } else {
        parallel *other = (parallel *)theirs("GOMP_parallel", (const void *)run);
        if (other)
            other(run, data, count, flags);
        else
            run(data);
    }
    self = outer;
}

/* Outside of our regions. In a region of another runtime ask that one; where there is none a thread is alone. */
#define ELSEWHERE(type, name, alone)                                                                                   \
    do {                                                                                                               \
        type (*other)(void) = (type(*)(void))theirs(name, __builtin_return_address(0));                                \
        return other ? other() : (alone);                                                                              \
    } while (0)

PUBLIC void GOMP_barrier(void)
{
    if (!self)
        ELSEWHERE(void, "GOMP_barrier", (void)0);
    meet(self->team, self);
}

/* True for the first of the members that come to this place, counted from the region's start. */
PUBLIC bool GOMP_single_start(void)
{
    if (!self)
        ELSEWHERE(bool, "GOMP_single_start", true);
    unsigned mine = self->singles++;
    return atomic_compare_exchange_strong(&self->team->singles, &mine, mine + 1);
}

PUBLIC int omp_get_thread_num(void)
{
    if (!self)
        ELSEWHERE(int, "omp_get_thread_num", 0);
    return (int)self->number;
}

PUBLIC int omp_get_num_threads(void)
{
    if (!self)
        ELSEWHERE(int, "omp_get_num_threads", 1);
    return (int)self->team->count;
}

/* A child has none of its parent's threads: it makes teams of its own. */
static void in_a_child(void)
{
    pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
    lock = fresh;
    idle = NULL;
}

__attribute__((constructor)) static void begin(void)
{
    pthread_atfork(NULL, NULL, in_a_child);
}
