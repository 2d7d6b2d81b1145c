// The Gramian and the combination of m rows of gradients in host memory, each entry read once, the
// latter also with a step of SGD or Adam along it; and the minimum-norm points of many small Gramians.
//
// Rows are a table of addresses: `addresses[i * positions + t]` is where row i begins at position t,
// 0 where it has no entry. Parts are triples (position, first element, number of elements) that
// cover every position once. `library.py` calls these functions through ctypes.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

// Sums run in this many lanes over one block, and then continue in float64: in float32 a lane adds
// BLOCK / LANES = 32 products.
constexpr int LANES = 32;
constexpr int64_t BLOCK = 1024;
// Up to here every pair of rows keeps its lanes in registers; more rows go by tiles of 4 x 4.
constexpr int FEW = 4;
// A float32 product loses at most the smallest normal number to underflow: squares above the number
// of elements times this keep the loss below 2^-30 of the result.
const double UNDERFLOW_FLOOR = std::ldexp(1.0, -96);

// Vectors of sixteen, so that one form of the loops serves every machine: the compiler cuts them.
constexpr int WIDTH = 16;
using Floats = float __attribute__((vector_size(4 * WIDTH)));
using Doubles = double __attribute__((vector_size(8 * WIDTH)));
using Shorts = uint16_t __attribute__((vector_size(2 * WIDTH)));
using Words = uint32_t __attribute__((vector_size(4 * WIDTH)));

template <class Vector, class Element>
inline Vector read(const Element *p) {
  Vector x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

// What each kind of number has: `Stored` in memory, `Sum` and the vector `Sums` that products of it
// are added up in, `Term` and `Terms` for combinations, which are rounded once: float64, or float32
// into 16 bits. `load` one, `loads` WIDTH of them, `round` one, and `rounds` WIDTH of them.
struct Float32 {
  using Stored = float;
  using Sum = float;
  using Sums = Floats;
  using Term = double;
  using Terms = Doubles;
  static Sum load(const Stored *p) { return *p; }
  static Sums loads(const Stored *p) { return read<Floats>(p); }
  static Stored round(double x) { return static_cast<float>(x); }
  static void rounds(Stored *out, Doubles x) {
    const Floats narrow = __builtin_convertvector(x, Floats);
    std::memcpy(out, &narrow, sizeof narrow);
  }
};

struct Float64 {
  using Stored = double;
  using Sum = double;
  using Sums = Doubles;
  using Term = double;
  using Terms = Doubles;
  static Sum load(const Stored *p) { return *p; }
  static Sums loads(const Stored *p) { return read<Doubles>(p); }
  static Stored round(double x) { return x; }
  static void rounds(Stored *out, Doubles x) { std::memcpy(out, &x, sizeof x); }
};

struct BFloat16 {
  using Stored = uint16_t;
  using Sum = float;
  using Sums = Floats;
  using Term = float;
  using Terms = Floats;
  static Sum load(const Stored *p) {
    const uint32_t bits = static_cast<uint32_t>(*p) << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  }
  static Sums loads(const Stored *p) {
    return reinterpret_cast<Floats>(__builtin_convertvector(read<Shorts>(p), Words) << 16);
  }
  // To the nearest, ties to even.
  static Stored round(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const bool nan = (bits & 0x7fffffff) > 0x7f800000;
    const uint32_t rounded = nan ? bits | 0x400000 : bits + 0x7fff + ((bits >> 16) & 1);
    return static_cast<uint16_t>(rounded >> 16);
  }
  static void rounds(Stored *out, Floats x) {
    const Words bits = reinterpret_cast<Words>(x);
    const Words nan = reinterpret_cast<Words>((bits & 0x7fffffff) > 0x7f800000);
    const Words near = bits + 0x7fff + ((bits >> 16) & 1);
    const Words whole = (nan & (bits | 0x400000)) | (~nan & near);
    const Shorts narrow = __builtin_convertvector(whole >> 16, Shorts);
    std::memcpy(out, &narrow, sizeof narrow);
  }
};

struct Float16 {
  using Stored = _Float16;
  using Sum = float;
  using Sums = Floats;
  using Term = float;
  using Terms = Floats;
  static Sum load(const Stored *p) { return static_cast<float>(*p); }
  static Stored round(float x) { return static_cast<_Float16>(x); }
#if defined(__AVX512F__)
  static Sums loads(const Stored *p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p));
    return reinterpret_cast<Floats>(_mm512_cvtph_ps(half));
  }
  static void rounds(Stored *out, Sums x) {
    const __m256i half = _mm512_cvtps_ph(reinterpret_cast<__m512>(x), 0);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(out), half);
  }
#else
  static Sums loads(const Stored *p) {
    Floats x;
    for (int l = 0; l < WIDTH; l++) x[l] = load(p + l);
    return x;
  }
  static void rounds(Stored *out, Sums x) {
    for (int l = 0; l < WIDTH; l++) out[l] = round(x[l]);
  }
#endif
};

inline int64_t pair_of(int64_t i, int64_t j, int64_t m) { return i * m - i * (i - 1) / 2 + j - i; }

template <class Vector>
inline double total_of(Vector x) {
  double total = 0.0;
  for (int l = 0; l < WIDTH; l++) total += x[l];
  return total;
}

// Products of whole blocks; returns where the rest begins.
template <class Kind, int M>
int64_t add_few(const typename Kind::Stored *const *rows, int64_t size, double *sums) {
  using Sums = typename Kind::Sums;
  constexpr int PAIRS = M * (M + 1) / 2;
  constexpr int VECTORS = LANES / WIDTH;
  int64_t start = 0;
  for (; start + BLOCK <= size; start += BLOCK) {
    Sums lanes[PAIRS][VECTORS] = {};
    for (int64_t k = start; k < start + BLOCK; k += LANES) {
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; v++) {
        Sums values[M];
#pragma GCC unroll 8
        for (int i = 0; i < M; i++) values[i] = Kind::loads(rows[i] + k + v * WIDTH);
        int pair = 0;
#pragma GCC unroll 8
        for (int i = 0; i < M; i++) {
#pragma GCC unroll 8
          for (int j = i; j < M; j++) lanes[pair++][v] += values[i] * values[j];
        }
      }
    }
    for (int pair = 0; pair < PAIRS; pair++) {
      for (int v = 0; v < VECTORS; v++) sums[pair] += total_of(lanes[pair][v]);
    }
  }
  return start;
}

// The same for more rows: a piece of each is widened once, and multiplied in tiles of 4 x 4.
template <class Kind>
int64_t add_many(const typename Kind::Stored *const *rows, int64_t m, int64_t size, double *sums) {
  using Sums = typename Kind::Sums;
  constexpr int64_t PIECE = 256;  // 32 additions in a lane
  constexpr int64_t VECTORS = PIECE / WIDTH;
  std::vector<Sums> wide(static_cast<size_t>((m + 3) / 4 * 4 * VECTORS), Sums{});
  int64_t start = 0;
  for (; start + PIECE <= size; start += PIECE) {
    for (int64_t i = 0; i < m; i++) {
      for (int64_t v = 0; v < VECTORS; v++) {
        wide[i * VECTORS + v] = Kind::loads(rows[i] + start + v * WIDTH);
      }
    }
    for (int64_t down = 0; down < m; down += 4) {
      for (int64_t across = down; across < m; across += 4) {
        Sums lanes[4][4] = {};
        const Sums *x = &wide[down * VECTORS], *y = &wide[across * VECTORS];
        for (int64_t v = 0; v < VECTORS; v++) {
#pragma GCC unroll 4
          for (int i = 0; i < 4; i++) {
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
              lanes[i][j] += x[i * VECTORS + v] * y[j * VECTORS + v];
            }
          }
        }
        for (int64_t i = down; i < std::min(down + 4, m); i++) {
          for (int64_t j = std::max(across, i); j < std::min(across + 4, m); j++) {
            sums[pair_of(i, j, m)] += total_of(lanes[i - down][j - across]);
          }
        }
      }
    }
  }
  return start;
}

template <class Kind>
void add_wide(const typename Kind::Stored *const *rows, int64_t m, int64_t from, int64_t size,
              double *sums) {
  for (int64_t i = 0; i < m; i++) {
    for (int64_t j = i; j < m; j++) {
      double lanes[8] = {};
      int64_t k = from;
      for (; k + 8 <= size; k += 8) {
#pragma GCC unroll 8
        for (int l = 0; l < 8; l++) {
          lanes[l] += static_cast<double>(Kind::load(rows[i] + k + l)) * Kind::load(rows[j] + k + l);
        }
      }
      double total = 0.0;
      for (int l = 0; l < 8; l++) total += lanes[l];
      for (; k < size; k++) {
        total += static_cast<double>(Kind::load(rows[i] + k)) * Kind::load(rows[j] + k);
      }
      sums[pair_of(i, j, m)] += total;
    }
  }
}

template <class Kind>
bool is_zero(const typename Kind::Stored *row, int64_t size) {
  for (int64_t k = 0; k < size; k++) {
    if (Kind::load(row + k) != 0) return false;
  }
  return true;
}

// All pairs of one part. Where squares leave the range of float32 the part is summed in float64.
template <class Kind>
void add_part(const typename Kind::Stored *const *rows, int64_t m, int64_t size, double *sums) {
  int64_t from = 0;
  switch (m) {
    case 1: from = add_few<Kind, 1>(rows, size, sums); break;
    case 2: from = add_few<Kind, 2>(rows, size, sums); break;
    case 3: from = add_few<Kind, 3>(rows, size, sums); break;
    case FEW: from = add_few<Kind, FEW>(rows, size, sums); break;
    default: from = add_many<Kind>(rows, m, size, sums);
  }
  if (sizeof(typename Kind::Sum) < 8) {
    for (int64_t i = 0; i < m; i++) {
      const double square = sums[pair_of(i, i, m)];
      const bool lost = !(square >= from * UNDERFLOW_FLOOR) && !is_zero<Kind>(rows[i], from);
      if (lost || !std::isfinite(square)) {
        std::fill(sums, sums + m * (m + 1) / 2, 0.0);
        from = 0;
        break;
      }
    }
  }
  if (from < size) add_wide<Kind>(rows, m, from, size, sums);
}

template <class Kind>
void gramian(const int64_t *addresses, int64_t m, int64_t positions, const int64_t *parts,
             int64_t num_parts, double *partial, int threads) {
  using Stored = typename Kind::Stored;
  const int64_t pairs = m * (m + 1) / 2;
#pragma omp parallel for schedule(dynamic, 4) num_threads(threads) if (threads > 1)
  for (int64_t p = 0; p < num_parts; p++) {
    std::vector<const Stored *> rows;
    std::vector<int64_t> present;
    for (int64_t i = 0; i < m; i++) {
      const int64_t address = addresses[i * positions + parts[3 * p]];
      if (address != 0) {
        rows.push_back(reinterpret_cast<const Stored *>(address) + parts[3 * p + 1]);
        present.push_back(i);
      }
    }
    const int64_t k = static_cast<int64_t>(present.size());
    std::vector<double> sums(static_cast<size_t>(k * (k + 1) / 2), 0.0);
    add_part<Kind>(rows.data(), k, parts[3 * p + 2], sums.data());
    for (int64_t i = 0; i < k; i++) {
      for (int64_t j = i; j < k; j++) {
        partial[p * pairs + pair_of(present[i], present[j], m)] = sums[pair_of(i, j, k)];
      }
    }
  }
}

// The weighted sum of k rows (M of them, where that is known), into the memory of the first.
template <class Kind, int M>
void add_rows(const typename Kind::Stored *const *rows, const double *weights, int64_t k,
              int64_t size, typename Kind::Stored *out) {
  using Term = typename Kind::Term;
  using Terms = typename Kind::Terms;
  const int64_t count = M > 0 ? M : k;
  const std::vector<Term> factors(weights, weights + count);
  int64_t at = 0;
  for (; at + WIDTH <= size; at += WIDTH) {
    Terms total = __builtin_convertvector(Kind::loads(rows[0] + at), Terms) * factors[0];
    for (int64_t i = 1; i < count; i++) {
      total += __builtin_convertvector(Kind::loads(rows[i] + at), Terms) * factors[i];
    }
    Kind::rounds(out + at, total);
  }
  for (; at < size; at++) {
    Term total = factors[0] * Kind::load(rows[0] + at);
    for (int64_t i = 1; i < count; i++) total += factors[i] * Kind::load(rows[i] + at);
    out[at] = Kind::round(total);
  }
}

template <class Kind>
void combine(const int64_t *addresses, int64_t m, int64_t positions, const int64_t *parts,
             int64_t num_parts, const double *weights, int threads) {
  using Stored = typename Kind::Stored;
#pragma omp parallel for schedule(dynamic, 4) num_threads(threads) if (threads > 1)
  for (int64_t p = 0; p < num_parts; p++) {
    std::vector<const Stored *> rows;
    std::vector<double> factors;
    for (int64_t i = 0; i < m; i++) {
      const int64_t address = addresses[i * positions + parts[3 * p]];
      if (address != 0) {
        rows.push_back(reinterpret_cast<const Stored *>(address) + parts[3 * p + 1]);
        factors.push_back(weights[i]);
      }
    }
    const int64_t k = static_cast<int64_t>(rows.size()), size = parts[3 * p + 2];
    Stored *out = const_cast<Stored *>(rows[0]);
    switch (k) {
      case 1: add_rows<Kind, 1>(rows.data(), factors.data(), k, size, out); break;
      case 2: add_rows<Kind, 2>(rows.data(), factors.data(), k, size, out); break;
      case 3: add_rows<Kind, 3>(rows.data(), factors.data(), k, size, out); break;
      case 4: add_rows<Kind, 4>(rows.data(), factors.data(), k, size, out); break;
      default: add_rows<Kind, 0>(rows.data(), factors.data(), k, size, out);
    }
  }
}

// A tile of the sum, and of what is in 16 bits, stays in the nearest cache.
constexpr int64_t TILE = 256;

template <class Kind>
void widen(const typename Kind::Stored *from, int64_t size, typename Kind::Sum *out) {
  int64_t at = 0;
  for (; at + WIDTH <= size; at += WIDTH) {
    const typename Kind::Sums x = Kind::loads(from + at);
    std::memcpy(out + at, &x, sizeof x);
  }
  for (; at < size; at++) out[at] = Kind::load(from + at);
}

template <class Kind>
void narrow(const typename Kind::Sum *from, int64_t size, typename Kind::Stored *out) {
  int64_t at = 0;
  for (; at + WIDTH <= size; at += WIDTH) {
    const auto x = read<typename Kind::Sums>(from + at);
    Kind::rounds(out + at, __builtin_convertvector(x, typename Kind::Terms));
  }
  for (; at < size; at++) out[at] = Kind::round(from[at]);
}

// The weighted sum of k rows (M of them, where that is known) over one tile.
template <class Kind, int M>
void sum_rows(const typename Kind::Stored *const *rows, const double *weights, int64_t k,
              int64_t start, int64_t size, typename Kind::Sum *out) {
  using Term = typename Kind::Term;
  using Terms = typename Kind::Terms;
  using Sums = typename Kind::Sums;
  const int64_t count = M > 0 ? M : k;
  int64_t at = 0;
  for (; at + WIDTH <= size; at += WIDTH) {
    Terms total = {};
    for (int64_t i = 0; i < count; i++) {
      const Sums x = Kind::loads(rows[i] + start + at);
      total += __builtin_convertvector(x, Terms) * static_cast<Term>(weights[i]);
    }
    const Sums sum = __builtin_convertvector(total, Sums);
    std::memcpy(out + at, &sum, sizeof sum);
  }
  for (; at < size; at++) {
    Term total = 0;
    for (int64_t i = 0; i < count; i++) {
      total += static_cast<Term>(weights[i]) * Kind::load(rows[i] + start + at);
    }
    out[at] = static_cast<typename Kind::Sum>(total);
  }
}

// The scalars are those of `moopt.kernels.updates.scalars_of`.
template <class Sum>
void sgd(Sum *__restrict p, Sum *__restrict b, const Sum *__restrict d, int64_t size,
         const double *scalars) {
  const Sum sign = scalars[0], decay = scalars[1], lr = scalars[2];
  const Sum momentum = scalars[3], fresh = scalars[4];
  const bool decays = decay != 0, buffered = b != nullptr, nesterov = scalars[5] != 0.0;
  for (int64_t k = 0; k < size; k++) {
    Sum g = sign * d[k];
    if (decays) g += decay * p[k];
    if (buffered) {
      b[k] = momentum * b[k] + fresh * g;
      g = nesterov ? g + momentum * b[k] : b[k];
    }
    p[k] -= lr * g;
  }
}

template <class Sum>
void adam(Sum *__restrict p, Sum *__restrict m, Sum *__restrict v, Sum *__restrict largest,
          const Sum *__restrict d, int64_t size, const double *scalars) {
  const Sum sign = scalars[0], coupled = scalars[1], decoupled = scalars[2];
  const Sum beta1 = scalars[3], beta2 = scalars[4], fresh1 = 1.0 - scalars[3];
  const Sum fresh2 = 1.0 - scalars[4], length = scalars[5], root = scalars[6], eps = scalars[7];
  const bool couples = coupled != 0, decays = decoupled != 0, amsgrad = largest != nullptr;
  for (int64_t k = 0; k < size; k++) {
    Sum g = sign * d[k], x = p[k];
    if (couples) g += coupled * x;
    if (decays) x -= decoupled * x;
    m[k] = beta1 * m[k] + fresh1 * g;
    Sum second = beta2 * v[k] + fresh2 * g * g;
    v[k] = second;
    if (amsgrad) {
      second = second > largest[k] || second != second ? second : largest[k];
      largest[k] = second;
    }
    p[k] = x - length * m[k] / (std::sqrt(second) / root + eps);
  }
}

template <class Kind>
void combine_update(const int64_t *addresses, int64_t m, int64_t held, int64_t positions,
                    const int64_t *parts, int64_t num_parts, const double *weights,
                    const double *scalars, int threads) {
  using Stored = typename Kind::Stored;
  using Sum = typename Kind::Sum;
  const int64_t per_position = held < 3 ? 6 : 8;
#pragma omp parallel for schedule(dynamic, 4) num_threads(threads) if (threads > 1)
  for (int64_t p = 0; p < num_parts; p++) {
    const int64_t position = parts[3 * p], first = parts[3 * p + 1], size = parts[3 * p + 2];
    const auto entry = [&](int64_t row) {
      const int64_t address = addresses[row * positions + position];
      return address == 0 ? nullptr : reinterpret_cast<Stored *>(address) + first;
    };
    std::vector<const Stored *> rows;
    std::vector<double> factors;
    for (int64_t i = 0; i < m; i++) {
      if (const Stored *row = entry(held + i)) {
        rows.push_back(row);
        factors.push_back(weights[i]);
      }
    }
    const double *own = scalars + position * per_position;
    const int64_t k = static_cast<int64_t>(rows.size());
    alignas(64) Sum wide[4][TILE], d[TILE];
    for (int64_t start = 0; start < size; start += TILE) {
      const int64_t length = std::min(TILE, size - start);
      Sum *tile[4] = {};
      for (int64_t h = 0; h < held; h++) {
        if constexpr (std::is_same_v<Stored, Sum>) {
          tile[h] = entry(h) + start;
        } else {
          widen<Kind>(entry(h) + start, length, tile[h] = wide[h]);
        }
      }
      switch (k) {
        case 1: sum_rows<Kind, 1>(rows.data(), factors.data(), k, start, length, d); break;
        case 2: sum_rows<Kind, 2>(rows.data(), factors.data(), k, start, length, d); break;
        case 3: sum_rows<Kind, 3>(rows.data(), factors.data(), k, start, length, d); break;
        case 4: sum_rows<Kind, 4>(rows.data(), factors.data(), k, start, length, d); break;
        default: sum_rows<Kind, 0>(rows.data(), factors.data(), k, start, length, d);
      }
      if (held < 3) sgd(tile[0], tile[1], d, length, own);
      else adam(tile[0], tile[1], tile[2], tile[3], d, length, own);
      if constexpr (!std::is_same_v<Stored, Sum>) {
        for (int64_t h = 0; h < held; h++) narrow<Kind>(wide[h], length, entry(h) + start);
      }
    }
  }
}

// The minimum-norm point: see moopt/kernels/min_norm/README.md. Tolerances: kernels/tolerances.py.
const double EPS = 2.220446049250313e-16;
const double CERTIFIED = 1e-10, DEPENDENT = 16 * EPS, RESIDUAL_ROUNDING = 4 * EPS;
const double STATIONARY = 1e-13, RESOLUTION = 16 * EPS;
enum Status { CONVERGED = 0, MAX_ITER = 1, DEGENERATE = 2, NON_FINITE = 3 };

struct Problem {
  int64_t m;
  std::vector<double> cosines, table, r, v, z, y;
  std::vector<char> face;

  explicit Problem(int64_t rows)
      : m(rows), cosines(rows * rows), table(rows * rows), r(rows), v(rows), z(rows), y(rows),
        face(rows) {}

  double times(const std::vector<double> &matrix, const std::vector<double> &x, int64_t i) const {
    double total = 0.0;
    for (int64_t j = 0; j < m; j++) total += matrix[i * m + j] * x[j];
    return total;
  }

  void sweep(int64_t p, double sign) {
    const double corner = table[p * m + p];
    for (int64_t i = 0; i < m; i++) {
      if (i == p) continue;
      const double factor = table[i * m + p] / corner;
      for (int64_t j = 0; j < m; j++) {
        if (j != p) table[i * m + j] -= factor * table[p * m + j];
      }
    }
    for (int64_t j = 0; j < m; j++) {
      if (j != p) table[p * m + j] = table[j * m + p] = sign * table[p * m + j] / corner;
    }
    table[p * m + p] = -1.0 / corner;
  }

  // v >= 0 with (C + r r^T) v = right on its face, and how many pivots it took.
  int64_t pivoted(const std::vector<double> &right, int64_t max_iter) {
    for (int64_t i = 0; i < m; i++) {
      for (int64_t j = 0; j < m; j++) table[i * m + j] = cosines[i * m + j] + right[i] * right[j];
    }
    z = right;
    std::fill(face.begin(), face.end(), 0);
    int64_t enter = 0, count = 0;
    double value = 0.0;
    bool driving = false;
    while (count < max_iter) {
      double level = 0.0, inside = 0.0;
      int64_t candidate = -1;
      for (int64_t j = 0; j < m; j++) {
        if (face[j]) inside += z[j];
        else if (z[j] > level) level = z[j], candidate = j;
      }
      if (!driving && !(level > RESIDUAL_ROUNDING * (1.0 + inside))) break;
      if (!driving) enter = candidate;
      const double *slope = &table[enter * m];
      double length = slope[enter] > DEPENDENT ? z[enter] / slope[enter] : INFINITY;
      int64_t pivot = enter;
      for (int64_t j = 0; j < m; j++) {
        if (!face[j] || !(slope[j] > 0.0)) continue;
        const double ratio = std::max(z[j], 0.0) / slope[j];
        if (ratio < length) length = ratio, pivot = j;
      }
      if (length == INFINITY) {  // a direction along which the objective falls without end
        for (int64_t j = 0; j < m; j++) v[j] = face[j] ? std::max(-slope[j], 0.0) : 0.0;
        v[enter] = 1.0;
        return count;
      }
      const bool blocked = pivot != enter;
      value = (driving ? value : 0.0) + length;
      for (int64_t j = 0; j < m; j++) z[j] -= length * slope[j];
      z[pivot] = blocked ? 0.0 : value;
      sweep(pivot, blocked ? -1.0 : 1.0);
      face[pivot] = !face[pivot];
      driving = blocked;
      count++;
    }
    // Corrected once by the equations of the face.
    for (int64_t j = 0; j < m; j++) v[j] = face[j] ? std::max(z[j], 0.0) : 0.0;
    if (driving) v[enter] = value;
    double s = 0.0;
    for (int64_t j = 0; j < m; j++) s += right[j] * v[j];
    for (int64_t i = 0; i < m; i++) {
      y[i] = face[i] ? right[i] * (1.0 - s) - times(cosines, v, i) : 0.0;
    }
    for (int64_t i = 0; i < m; i++) z[i] = face[i] ? std::max(v[i] - times(table, y, i), 0.0) : v[i];
    v = z;
    return count;
  }

  struct Judged {
    double gap;
    bool stationary, unresolved;
  };

  // The certificate of the weights r v.
  Judged judged() {
    double squared = 0.0, s = 0.0, size = 0.0, worst = 0.0;
    for (int64_t i = 0; i < m; i++) {
      y[i] = times(cosines, v, i);
      squared += v[i] * y[i];
      s += r[i] * v[i];
      size += v[i];
    }
    for (int64_t i = 0; i < m; i++) worst = std::max(worst, r[i] * (squared / s) - y[i]);
    double gap = squared > 0.0 ? worst / std::sqrt(squared) : (worst == 0.0 ? 0.0 : INFINITY);
    if (!(s > 0.0)) gap = INFINITY;
    return {gap, squared <= STATIONARY * s * s, squared <= RESOLUTION * size * size};
  }
};

void min_norm(const double *gramian, int64_t m, double tol, int64_t max_iter, double *weights,
              int64_t *status, double *gap, int64_t *num_iter) {
  std::vector<double> norms(m);
  bool finite = true;
  int64_t zeros = 0;
  double shortest = INFINITY;
  for (int64_t i = 0; i < m * m; i++) finite = finite && std::isfinite(gramian[i]);
  *num_iter = 0;
  if (!finite) {
    std::fill(weights, weights + m, 1.0 / static_cast<double>(m));
    *status = NON_FINITE, *gap = NAN;
    return;
  }
  for (int64_t i = 0; i < m; i++) {
    norms[i] = std::sqrt(std::max(gramian[i * m + i], 0.0));
    if (norms[i] > 0.0) shortest = std::min(shortest, norms[i]);
    else zeros++;
  }
  if (zeros > 0) {
    for (int64_t i = 0; i < m; i++) weights[i] = norms[i] > 0.0 ? 0.0 : 1.0 / zeros;
    *status = DEGENERATE, *gap = 0.0;
    return;
  }
  Problem problem(m);
  for (int64_t i = 0; i < m; i++) {
    problem.r[i] = shortest / norms[i];
    for (int64_t j = 0; j < m; j++) {
      const double product = 0.5 * gramian[i * m + j] + 0.5 * gramian[j * m + i];
      const double cosine = product / norms[i] / norms[j];
      problem.cosines[i * m + j] = i == j ? 1.0 : std::min(std::max(cosine, -1.0), 1.0);
    }
  }
  *num_iter = problem.pivoted(problem.r, max_iter);
  Problem::Judged judged = problem.judged();
  if ((judged.unresolved || judged.gap > CERTIFIED) && !judged.stationary) {
    // Where rows much longer than the shortest cancel, r is lost in the rounding of C + r r^T, and
    // the hull of the unit rows finds the weights without it.
    const std::vector<double> first = problem.v, ones(m, 1.0);
    *num_iter += problem.pivoted(ones, max_iter);
    const Problem::Judged second = problem.judged();
    if (judged.unresolved || second.unresolved) judged = second;
    else problem.v = first;
  }
  double total = 0.0;
  for (int64_t i = 0; i < m; i++) total += weights[i] = problem.r[i] * problem.v[i];
  for (int64_t i = 0; i < m; i++) weights[i] /= total;
  const bool nothing = judged.stationary || judged.unresolved;
  *status = nothing ? DEGENERATE : judged.gap <= tol ? CONVERGED : MAX_ITER;
  *gap = judged.gap;
}

}  // namespace

// kind: 0 float64, 1 float32, 2 bfloat16, 3 float16.
#define FOR_KIND(call)                       \
  switch (kind) {                            \
    case 0: call(Float64); return 0;         \
    case 1: call(Float32); return 0;         \
    case 2: call(BFloat16); return 0;        \
    case 3: call(Float16); return 0;         \
    default: return 1;                       \
  }

extern "C" {

// partial: [num_parts, m (m + 1) / 2], zeros; the sums of each part, row by row of the upper
// triangle. The caller adds them up, in the order of the parts.
int moopt_gramian(int kind, const int64_t *addresses, int64_t m, int64_t positions,
                  const int64_t *parts, int64_t num_parts, double *partial, int threads) {
#define CALL(Kind) gramian<Kind>(addresses, m, positions, parts, num_parts, partial, threads)
  FOR_KIND(CALL)
#undef CALL
}

// The first row of each position that has an entry is overwritten with sum_i weights[i] row[i].
int moopt_combine(int kind, const int64_t *addresses, int64_t m, int64_t positions,
                  const int64_t *parts, int64_t num_parts, const double *weights, int threads) {
#define CALL(Kind) combine<Kind>(addresses, m, positions, parts, num_parts, weights, threads)
  FOR_KIND(CALL)
#undef CALL
}

// The first `held` tensors of each position are a parameter and its states, and step along the sum of
// the m rows behind them; scalars: by position, as `moopt.kernels.updates.scalars_of`.
int moopt_combine_update(int kind, const int64_t *addresses, int64_t m, int64_t held,
                         int64_t positions, const int64_t *parts, int64_t num_parts,
                         const double *weights, const double *scalars, int threads) {
#define CALL(Kind)                                                                               \
  combine_update<Kind>(addresses, m, held, positions, parts, num_parts, weights, scalars, threads)
  FOR_KIND(CALL)
#undef CALL
}

// Minimum-norm points of `count` Gramians [m, m], every row active: weights [count, m] and what
// `moopt.solvers.SolverResult` holds, one number for each.
int moopt_min_norm(const double *gramians, int64_t count, int64_t m, double tol, int64_t max_iter,
                   double *weights, int64_t *status, double *gap, int64_t *num_iter, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t k = 0; k < count; k++) {
    min_norm(gramians + k * m * m, m, tol, max_iter, weights + k * m, status + k, gap + k,
             num_iter + k);
  }
  return 0;
}

}  // extern "C"
