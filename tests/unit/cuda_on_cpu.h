// Enough of CUDA to run kernels without a GPU: one thread after the other, for kernels that share no memory.
#include <math.h>
#include <string.h>

#include <algorithm>
#include <utility>

#define __global__
#define __device__ static

struct Index {
    unsigned x;
};
static Index blockIdx, blockDim, threadIdx;

static unsigned long long atomicAdd(unsigned long long* target, unsigned long long value) {
    return std::exchange(*target, *target + value);
}
static unsigned long long atomicMax(unsigned long long* target, unsigned long long value) {
    return std::exchange(*target, std::max(*target, value));
}

template <class To, class From>
static To same_bits(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To result;
    memcpy(&result, &value, sizeof result);
    return result;
}
[[maybe_unused]] static long long __double_as_longlong(double value) { return same_bits<long long>(value); }
[[maybe_unused]] static double __longlong_as_double(long long value) { return same_bits<double>(value); }

template <class... A, std::size_t... I>
static void run(void (*kernel)(A...), unsigned blocks, unsigned threads, void** arguments, std::index_sequence<I...>) {
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) kernel(*static_cast<A*>(arguments[I])...);
}

template <class... A>
static int run(void (*kernel)(A...), unsigned blocks, unsigned threads, void** arguments, unsigned count) {
    if (count != sizeof...(A)) return 1;
    run(kernel, blocks, threads, arguments, std::index_sequence_for<A...>());
    return 0;
}
