// Kernels of the CuPy backend: one thread a row, or one an entry.
//
// T is float or double; counts, experts and positions have 64 bits. Arrays are
// C-ordered, save that blocks of logits are expert-major, (K, B): neighbours among
// the threads take neighbouring rows, and so read neighbouring memory.
//
// Every kernel takes the number of threads first. No thread speaks to another and no
// header is included, so that the same text builds for the host, where it is tested.
// Not for --use_fast_math, which drops NaN and infinities.

typedef long long i64;

__device__ inline i64 thread() { return i64(blockIdx.x) * blockDim.x + threadIdx.x; }

// ------------------------------------------------------------------ softmax of a row
template <typename T> __device__ bool is_nan(T x) { return x != x; }

template <typename T> __device__ T minus_infinity() { return log(T(0)); }

// What is subtracted before exp: the largest value, 0 where it is infinite.
template <typename T> __device__ T shift_of(T peak)
{
    return peak - peak == 0 ? peak : T(0);
}

template <typename T> __device__ T peak_of(const T *z, i64 n)
{
    T peak = minus_infinity<T>();
    for (i64 j = 0; j < n; ++j)
        if (z[j] > peak) peak = z[j];
    return peak;
}

// Turn z into its softmax and return log sum exp. All at -inf: equal shares.
template <typename T> __device__ T share(T *z, i64 n)
{
    const T shift = shift_of(peak_of(z, n));
    T total = 0;
    for (i64 j = 0; j < n; ++j) total += z[j] = exp(z[j] - shift);
    for (i64 j = 0; j < n; ++j) z[j] = total == 0 ? T(1) / n : z[j] / total;
    return log(total) + shift;
}

// ------------------------------------------------------------------------- the k best
// The k best scores of a row and their places, best first, kept by insertion. Ties
// keep the earlier place; NaN comes last. Most scores fail against the least one held.
template <typename T> struct Best {
    T *score;
    i64 *place;
    i64 k, held;
    T least;

    __device__ Best(T *score, i64 *place, i64 k)
        : score(score), place(place), k(k), held(0), least(-minus_infinity<T>()) {}

    __device__ static bool before(T a, T b)
    {
        return a > b || (is_nan(b) && !is_nan(a));
    }

    __device__ void offer(T s, i64 p)
    {
        if (held == k && !before(s, least)) return;
        i64 at = held < k ? held++ : k - 1;
        for (; at > 0 && before(s, score[at - 1]); --at) {
            score[at] = score[at - 1];
            place[at] = place[at - 1];
        }
        score[at] = s;
        place[at] = p;
        least = score[held - 1];
    }
};

template <typename T>
__global__ void top_k(i64 n, const T *scores, i64 m, i64 k, T *values, i64 *places)
{
    const i64 i = thread();
    if (i >= n) return;
    Best<T> best(values + i * k, places + i * k, k);
    for (i64 j = 0; j < m; ++j) best.offer(scores[i * m + j], j);
}

// ------------------------------------------------------------------------------- gate
template <typename T>
__global__ void softmax_route(
    i64 n, const T *logits, const T *bias, i64 n_experts, i64 k, T *weights,
    i64 *indices)
{
    const i64 i = thread();
    if (i >= n) return;
    Best<T> best(weights + i * k, indices + i * k, k);
    for (i64 e = 0; e < n_experts; ++e) best.offer(logits[e * n + i] + bias[e], e);
    share(best.score, k);
}

template <typename T>
__global__ void softmax_survey(
    i64 n, const T *logits, const T *bias, i64 n_experts, const i64 *wanted, i64 m,
    i64 k, T *log_at, T *log_best, i64 *indices)
{
    const i64 i = thread();
    if (i >= n) return;
    Best<T> best(log_best + i * k, indices + i * k, k);
    T peak = minus_infinity<T>(), total = 0;
    for (i64 e = 0; e < n_experts; ++e) {
        const T z = logits[e * n + i] + bias[e];
        best.offer(z, e);
        if (z > peak) peak = z;
    }
    // Shifted first: z - logsumexp(z) would lose float32 digits at 700.
    const T shift = shift_of(peak);
    for (i64 e = 0; e < n_experts; ++e)
        total += exp(logits[e * n + i] + bias[e] - shift);
    const T norm = log(total);
    for (i64 j = i * m; j < (i + 1) * m; ++j) {
        const i64 e = wanted[j];
        log_at[j] = e < 0 ? minus_infinity<T>()
                          : (logits[e * n + i] + bias[e] - shift) - norm;
    }
    for (i64 j = 0; j < k; ++j) best.score[j] = (best.score[j] - shift) - norm;
}

// Turn (K, B) logits into mass times softmax; write mass times log sum exp of a row.
template <typename T>
__global__ void softmax_loss(
    i64 n, T *logits, const T *bias, const T *mass, i64 n_experts, T *loss)
{
    const i64 i = thread();
    if (i >= n) return;
    T peak = minus_infinity<T>(), total = 0;
    for (i64 e = 0; e < n_experts; ++e) {
        const T z = logits[e * n + i] += bias[e];
        if (z > peak) peak = z;
    }
    for (i64 e = 0; e < n_experts; ++e)
        total += logits[e * n + i] = exp(logits[e * n + i] - peak);
    const T factor = mass[i] / total;
    for (i64 e = 0; e < n_experts; ++e) logits[e * n + i] *= factor;
    loss[i] = mass[i] * (log(total) + peak);
}

// ---------------------------------------------------------------------------- experts
// An entry is a flat position in (n, m). Without indices entry j of a row is expert j.
__device__ inline i64 expert_of(const i64 *indices, i64 entry, i64 m)
{
    return indices ? indices[entry] : entry % m;
}

template <typename T> __device__ T affine(const T *coef, const T *x, T intercept, i64 d)
{
    T total = 0;
    for (i64 f = 0; f < d; ++f) total += coef[f] * x[f];
    return total + intercept;
}

// One thread an entry and output.
template <typename T>
__global__ void linear_at(
    i64 n, const T *X, const i64 *indices, const T *coef, const T *intercept, i64 m,
    i64 q, i64 d, T *values)
{
    const i64 t = thread();
    if (t >= n) return;
    const i64 entry = t / q, e = indices[entry], row = e * q + t % q;
    const T *x = X + entry / m * d;
    values[t] = e < 0 ? T(0) : affine(coef + row * d, x, intercept[row], d);
}

// One thread a row and output.
template <typename T>
__global__ void linear_mix(
    i64 n, const T *X, const i64 *indices, const T *weights, const T *coef,
    const T *intercept, i64 m, i64 q, i64 d, T *values)
{
    const i64 t = thread();
    if (t >= n) return;
    const i64 i = t / q;
    const T *x = X + i * d;
    T total = 0;
    for (i64 j = i * m; j < (i + 1) * m; ++j) {
        const i64 e = indices[j], row = e * q + t % q;
        if (e >= 0) total += weights[j] * affine(coef + row * d, x, intercept[row], d);
    }
    values[t] = total;
}

// One thread an entry: log softmax of its row's label, from (n, m, C) logits.
template <typename T>
__global__ void softmax_at(
    i64 n, const T *logits, const i64 *labels, const i64 *indices, i64 m,
    i64 n_classes, T *values)
{
    const i64 entry = thread();
    if (entry >= n) return;
    const T *z = logits + entry * n_classes;
    const T shift = shift_of(peak_of(z, n_classes));
    T total = 0;
    for (i64 c = 0; c < n_classes; ++c) total += exp(z[c] - shift);
    const T value = (z[labels[entry / m]] - shift) - log(total);
    values[entry] = expert_of(indices, entry, m) < 0 ? T(0) : value;
}

// One thread a row: weighted sum of softmax over (n, m, C) logits, which are lost.
template <typename T>
__global__ void softmax_mix(
    i64 n, T *logits, const i64 *indices, const T *weights, i64 m, i64 n_classes,
    T *values)
{
    const i64 i = thread();
    if (i >= n) return;
    T *answer = values + i * n_classes;
    for (i64 c = 0; c < n_classes; ++c) answer[c] = 0;
    for (i64 j = i * m; j < (i + 1) * m; ++j) {
        if (expert_of(indices, j, m) < 0) continue;
        T *z = logits + j * n_classes, total = 0;
        const T peak = peak_of(z, n_classes);
        for (i64 c = 0; c < n_classes; ++c) total += z[c] = exp(z[c] - peak);
        for (i64 c = 0; c < n_classes; ++c) answer[c] += weights[j] / total * z[c];
    }
}

// ----------------------------------------------------------------------------- E-step
// One thread an entry: sum over outputs of log N(y; values, scale^2).
template <typename T>
__global__ void normal_log_density(
    i64 n, const T *y, const T *values, const T *scale, const T *log_peak,
    const i64 *indices, i64 m, i64 q, T *density)
{
    const i64 entry = thread();
    if (entry >= n) return;
    const i64 e = expert_of(indices, entry, m);
    T squares = 0;
    for (i64 o = 0; e >= 0 && o < q; ++o) {
        const T z = (y[entry / m * q + o] - values[entry * q + o]) / scale[e * q + o];
        squares += z * z;
    }
    density[entry] = e < 0 ? minus_infinity<T>() : log_peak[e] - T(0.5) * squares;
}

// The best of a row's candidates, their responsibilities and log normaliser. If all
// are kept they stay in their order.
template <typename T>
__global__ void truncate(
    i64 n, const T *log_joint, i64 m, i64 width, T *resp, i64 *kept, T *log_norm)
{
    const i64 i = thread();
    if (i >= n) return;
    Best<T> best(resp + i * width, kept + i * width, width);
    for (i64 j = 0; j < m; ++j) {
        const T z = log_joint[i * m + j];
        if (width < m) {
            best.offer(z, j);
        } else {
            best.score[j] = z;
            best.place[j] = j;
        }
    }
    log_norm[i] = share(best.score, width);
}

// Candidates, -1 where the row has that expert already; I is an integer.
template <typename I>
__global__ void novel(
    i64 n, const I *known, i64 n_known, const I *more, i64 m, I *fresh)
{
    const i64 i = thread();
    if (i >= n) return;
    for (i64 j = i * m; j < (i + 1) * m; ++j) {
        fresh[j] = more[j];
        for (i64 c = i * n_known; c < (i + 1) * n_known; ++c)
            if (known[c] == more[j]) fresh[j] = -1;
        for (i64 c = i * m; c < j; ++c)
            if (more[c] == more[j]) fresh[j] = -1;
    }
}

// ------------------------------------------------------------------------- segments
// Each expert's run of `order` is dealt out to some threads; their sums, in float64,
// are added afterwards. Atomic additions would give another answer each time.
template <typename T>
__global__ void sum_by_expert(
    i64 n, const T *values, const i64 *order, const i64 *offsets, i64 n_parts,
    double *sums)
{
    const i64 t = thread();
    if (t >= n) return;
    const i64 e = t / n_parts;
    double total = 0;
    for (i64 s = offsets[e] + t % n_parts; s < offsets[e + 1]; s += n_parts)
        total += values[order[s]];
    sums[t] = total;
}

// Sums of w [x, 1]: one thread a part and column of X, the last column being the 1.
template <typename T>
__global__ void segment_sums(
    i64 n, const T *X, const double *weights, const i64 *order, const i64 *offsets,
    i64 m, i64 d, i64 n_parts, double *sums)
{
    const i64 t = thread();
    if (t >= n) return;
    const i64 f = t % (d + 1), part = t / (d + 1), e = part / n_parts;
    double total = 0;
    for (i64 s = offsets[e] + part % n_parts; s < offsets[e + 1]; s += n_parts) {
        const i64 entry = order[s];
        total += weights[entry] * (f < d ? double(X[entry / m * d + f]) : 1.0);
    }
    sums[t] = total;
}
