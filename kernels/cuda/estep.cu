// The inner loops of the E-step on a GPU.  `real` (float or double) is defined by the compiler's options.
//
// One thread works on one coefficient f of one orientation n or translation t; neighbouring threads have neighbouring
// coefficients.  Layouts and formulas are those of the compiled kernels for the CPU (trilinear.py, sphere.py).  The
// reference is read with plain loads through the read-only cache.

typedef long long integer;
typedef unsigned long long fixed;  // two's complement: sums wrap where they are negative, and are right at the end

struct Place {
    integer corner;      // flat index of the lower corner
    real near_far[2];    // weights along x
    real pairs[4];       // weights of the pairs (y, z), (y+1, z), (y, z+1), (y+1, z+1)
    real sign;           // of the imaginary part
};

// Where a coefficient falls on the centred half grid (P, P, P/2 + 1); rotation is pad * A^T.
__device__ Place locate(const real* rotation, const real* points, integer n_f, integer f, integer size) {
    const real kx = points[f], ky = points[n_f + f], kz = points[2 * n_f + f];
    real px = rotation[0] * kx + rotation[1] * ky + rotation[2] * kz;
    Place place;
    place.sign = px >= 0 ? real(1) : real(-1);
    px *= place.sign;
    const real py = (rotation[3] * kx + rotation[4] * ky + rotation[5] * kz) * place.sign;
    const real pz = (rotation[6] * kx + rotation[7] * ky + rotation[8] * kz) * place.sign;
    const real x = floor(px), y = floor(py), z = floor(pz);
    const real dx = px - x, dy = py - y, dz = pz - z;
    place.near_far[0] = 1 - dx;
    place.near_far[1] = dx;
    place.pairs[0] = (1 - dy) * (1 - dz);
    place.pairs[1] = dy * (1 - dz);
    place.pairs[2] = (1 - dy) * dz;
    place.pairs[3] = dy * dz;
    place.corner = ((integer(z) + size / 2) * size + integer(y) + size / 2) * (size / 2 + 1) + integer(x);
    return place;
}

// Flat index of the near end of a pair.
__device__ integer pair_index(const Place& place, int pair, integer size) {
    const integer row = size / 2 + 1;
    return place.corner + (pair & 1 ? row : 0) + (pair & 2 ? row * size : 0);
}

__device__ integer thread_index() { return integer(blockIdx.x) * blockDim.x + threadIdx.x; }

// Rotated references: grid (points, 2), rotations (n, 3, 3), points (3, n_f), stacked (n, 2, n_f).
extern "C" __global__ void sample(const real* __restrict__ grid, integer size, const real* __restrict__ rotations,
                                  const real* __restrict__ points, integer count, integer n_f, real* stacked) {
    const integer index = thread_index(), n = index / n_f, f = index % n_f;
    if (n >= count) return;
    const Place place = locate(rotations + 9 * n, points, n_f, f, size);
    real re = 0, im = 0;
    for (int pair = 0; pair < 4; ++pair) {
        const real* near = grid + 2 * pair_index(place, pair, size);
        re += place.pairs[pair] * (place.near_far[0] * near[0] + place.near_far[1] * near[2]);
        im += place.pairs[pair] * (place.near_far[0] * near[1] + place.near_far[1] * near[3]);
    }
    stacked[2 * n * n_f + f] = re;
    stacked[(2 * n + 1) * n_f + f] = place.sign * im;
}

// Whole numbers in the order of numbers, above zero; NaN is above all.
__device__ fixed order_of(double value) {
    const fixed top = fixed(1) << 63;
    if (value != value) return ~fixed(0);
    const fixed bits = fixed(__double_as_longlong(value));
    return bits & top ? ~bits : bits | top;
}

__device__ double number_of(fixed order) {
    const fixed top = fixed(1) << 63;
    return __longlong_as_double(integer(order & top ? order ^ top : ~order));
}

// Logarithm of prior times likelihood of a point, but for constants: orientation (n,), offset (T,), scores (n, T).
__device__ real log_weight(const real* orientation, const real* offset, const real* scores, integer columns,
                           integer point) {
    return orientation[point / columns] - scores[point] + offset[point % columns];
}

// The order of the largest log weight in found[0], which is zero before; each thread looks at every threads-th point.
extern "C" __global__ void largest_weight(const real* __restrict__ orientation, const real* __restrict__ offset,
                                          const real* __restrict__ scores, integer columns, integer count,
                                          integer threads, fixed* found) {
    const integer first = thread_index();
    if (first >= threads) return;
    fixed largest = 0;
    for (integer point = first; point < count; point += threads) {
        const fixed order = order_of(log_weight(orientation, offset, scores, columns, point));
        if (order > largest) largest = order;
    }
    if (largest > 0) atomicMax(found, largest);
}

// Points whose log weight is at most distance below the largest, in any order, as far as there is room; their number
// in found[1], which is zero before.
extern "C" __global__ void near_largest(const real* __restrict__ orientation, const real* __restrict__ offset,
                                        const real* __restrict__ scores, integer columns, integer count,
                                        double distance, integer capacity, fixed* found, integer* index, real* near) {
    const integer point = thread_index();
    if (point >= count) return;
    const real weight = log_weight(orientation, offset, scores, columns, point);
    if (!(weight >= real(number_of(found[0]) - distance))) return;
    const integer place = integer(atomicAdd(found + 1, fixed(1)));
    if (place >= capacity) return;
    index[place] = point;
    near[place] = weight;
}

// Translated coefficients: values (n_f, 2), phases along the axes x (T, size/2 + 1, 2), y and z (T, size, 2),
// frequencies (3, n_f) of which the negative ones count from the end, stacked (T, 2, n_f).
extern "C" __global__ void shift(const real* __restrict__ values, const real* __restrict__ x,
                                 const real* __restrict__ y, const real* __restrict__ z,
                                 const integer* __restrict__ frequencies, integer size, integer count, integer n_f,
                                 real* stacked) {
    const integer index = thread_index(), t = index / n_f, f = index % n_f;
    if (t >= count) return;
    const integer kx = frequencies[f], ky = frequencies[n_f + f], kz = frequencies[2 * n_f + f];
    const real* along_x = x + 2 * (t * (size / 2 + 1) + kx);
    const real* along_y = y + 2 * (t * size + (ky < 0 ? ky + size : ky));
    const real* along_z = z + 2 * (t * size + (kz < 0 ? kz + size : kz));
    const real a = along_z[0] * along_y[0] - along_z[1] * along_y[1];
    const real b = along_z[0] * along_y[1] + along_z[1] * along_y[0];
    const real c = a * along_x[0] - b * along_x[1], d = a * along_x[1] + b * along_x[0];
    const real re = values[2 * f], im = values[2 * f + 1];
    stacked[2 * t * n_f + f] = c * re - d * im;
    stacked[(2 * t + 1) * n_f + f] = c * im + d * re;
}

// Phases summed over translations, and the image under them inserted: image (3, n_f) real part, imaginary part, weight;
// entries starts[n] .. starts[n + 1] of column and weight belong to orientation n; phases (n_t, 2, n_f) and moved
// (n, 2, n_f).  Insertions (points, 3) are whole numbers, data and weight times their scales, so that the sums do not
// depend on the order in which the threads add them.
extern "C" __global__ void back_project(fixed* insertions, double data_scale, double weight_scale, integer size,
                                        const real* __restrict__ rotations, const real* __restrict__ points,
                                        const real* __restrict__ image, const integer* __restrict__ starts,
                                        const integer* __restrict__ column, const real* __restrict__ weight,
                                        const real* __restrict__ phases, integer count, integer n_f, real* moved) {
    const integer index = thread_index(), n = index / n_f, f = index % n_f;
    if (n >= count) return;
    real total = 0, a = 0, b = 0;
    for (integer entry = starts[n]; entry < starts[n + 1]; ++entry) {
        const real* phase = phases + 2 * column[entry] * n_f;
        total += weight[entry];
        a += weight[entry] * phase[f];
        b += weight[entry] * phase[n_f + f];
    }
    moved[2 * n * n_f + f] = a;
    moved[(2 * n + 1) * n_f + f] = b;
    const real re = image[f], im = image[n_f + f], counted = image[2 * n_f + f];
    if (!(counted > 0)) return;
    const Place place = locate(rotations + 9 * n, points, n_f, f, size);
    const double value[3] = {data_scale * (re * a - im * b), data_scale * (place.sign * (re * b + im * a)),
                             weight_scale * (total * counted)};
    for (int pair = 0; pair < 4; ++pair)
        for (int side = 0; side < 2; ++side) {
            fixed* target = insertions + 3 * (pair_index(place, pair, size) + side);
            const double share = place.pairs[pair] * place.near_far[side];
            for (int part = 0; part < 3; ++part) atomicAdd(target + part, fixed(llrint(share * value[part])));
        }
}

// Insertions (points, 3) divided by their scales and added to the sums of the same shape, and set to zero.
extern "C" __global__ void settle(integer* insertions, double data_scale, double weight_scale, double* sums,
                                  integer count) {
    const integer index = thread_index();
    if (index >= count || insertions[index] == 0) return;
    sums[index] += double(insertions[index]) / (index % 3 < 2 ? data_scale : weight_scale);
    insertions[index] = 0;
}
