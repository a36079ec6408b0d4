/* Runs the stress of libraries that were built with the thread sanitizer: threads_tsan OURS STRESS. */
#include <dlfcn.h>
#include <stdio.h>

int main(int count, char **argument)
{
    if (count != 3 || !dlopen(argument[1], RTLD_NOW | RTLD_GLOBAL))
        return 2;
    void *stress = dlopen(argument[2], RTLD_NOW);
    if (!stress)
        return 3;
    int (*together)(unsigned, unsigned, unsigned) = (int (*)(unsigned, unsigned, unsigned))dlsym(stress, "stress_together");
    int (*nested)(unsigned) = (int (*)(unsigned))dlsym(stress, "nested");
    int errors = together(1, 300, 4) + together(3, 150, 5) + nested(3);
    printf("errors %d\n", errors);
    return errors != 0;
}
