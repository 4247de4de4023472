// Enough of CUDA to run kernels without a GPU: one thread after the other, for kernels that share no memory.
#include <math.h>

#include <utility>

#define __global__
#define __device__ static

struct Index {
    unsigned x;
};
static Index blockIdx, blockDim, threadIdx;

static void atomicAdd(unsigned long long* target, unsigned long long value) { *target += value; }

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
