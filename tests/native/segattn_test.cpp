// The CPU kernel on random problems, in exactly as much memory as each needs, for sanitizers to watch:
// against a reference in double, with one thread and several, on every instruction set there is.
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "mmedge/kernels.h"

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::mt19937 rng(1);

int pick(int least, int most) { return std::uniform_int_distribution<int>(least, most)(rng); }
bool coin(double share = 0.5) { return std::bernoulli_distribution(share)(rng); }
float normal() { return std::normal_distribution<float>()(rng); }

std::unique_ptr<float[]> normals(int64_t count) {
  std::unique_ptr<float[]> made(new float[count]);
  for (int64_t i = 0; i < count; ++i) made[i] = normal();
  return made;
}

void expect(bool good, const char* what) {
  if (!good) {
    std::fprintf(stderr, "failed: %s (%s)\n", what, mmedge_last_error());
    std::exit(1);
  }
}

// A problem and the memory behind it.
struct Problem {
  mmedge_segattn call{};
  std::vector<std::unique_ptr<float[]>> floats;
  std::vector<std::unique_ptr<uint8_t[]>> bytes;
  std::vector<std::unique_ptr<int32_t[]>> counts;
  std::unique_ptr<float[]> out, lse;
  int64_t out_size, lse_size;

  float* keep(int64_t count) {
    floats.push_back(normals(count));
    return floats.back().get();
  }
};

Problem make() {
  Problem p;
  mmedge_segattn& c = p.call;
  c.struct_size = sizeof c;
  c.dtype = MMEDGE_F32;
  c.mode = coin(0.2) ? MMEDGE_INDEPENDENT : MMEDGE_JOINT;
  c.batch = pick(1, 3);
  c.kv_heads = pick(1, 3);
  c.heads = c.kv_heads * pick(1, 3);
  c.rows = coin() ? pick(1, 8) : pick(9, 70);
  c.dim = coin() ? 8 * pick(1, 16) : pick(1, 150);
  c.dim_v = coin() ? c.dim : pick(1, 150);
  c.segments = pick(1, MMEDGE_MAX_SEGMENTS);
  c.num_splits = coin(0.3) && c.mode == MMEDGE_JOINT ? pick(1, 4) : 0;
  c.scale = 0.2f;
  c.q = p.keep(int64_t{c.batch} * c.rows * c.heads * c.dim);
  c.q_stride[0] = int64_t{c.rows} * c.heads * c.dim;
  c.q_stride[1] = int64_t{c.heads} * c.dim;
  c.q_stride[2] = c.dim;
  p.out_size = int64_t{c.batch} * c.heads * c.rows * c.dim_v;
  p.out.reset(new float[p.out_size]);
  c.out = p.out.get();
  c.out_stride[0] = int64_t{c.heads} * c.rows * c.dim_v;
  c.out_stride[1] = c.dim_v;
  c.out_stride[2] = int64_t{c.rows} * c.dim_v;
  p.lse_size = int64_t{c.batch} * c.heads * c.rows;
  if (c.mode == MMEDGE_JOINT) {
    p.lse.reset(new float[p.lse_size]);
    c.lse = p.lse.get();
  }
  if (coin(0.3)) {
    float* bias = p.keep(int64_t{c.batch} * c.heads * c.segments);
    for (int i = 0; i < c.batch * c.heads * c.segments; ++i) {
      if (coin(0.2)) bias[i] = -kInf;
    }
    c.seg_bias = bias;
    c.seg_bias_stride[0] = int64_t{c.heads} * c.segments;
    c.seg_bias_stride[1] = coin() ? 0 : c.segments;
  }
  if (c.mode == MMEDGE_INDEPENDENT && coin()) {
    c.gamma = p.keep(int64_t{c.batch} * c.heads * c.segments);
    c.gamma_stride[0] = int64_t{c.heads} * c.segments;
    c.gamma_stride[1] = c.segments;
  }
  for (int i = 0; i < c.segments; ++i) {
    mmedge_segment& s = c.segment[i];
    s.dtype = MMEDGE_F32;
    s.length = coin(0.2) ? 0 : coin() ? pick(1, 20) : pick(21, 300);
    const bool shared = coin(0.2);
    const int64_t own = shared ? 1 : c.batch;
    float* k = p.keep(own * s.length * c.kv_heads * c.dim);
    float* v = p.keep(own * s.length * c.kv_heads * c.dim_v);
    s.k = k;
    s.v = v;
    s.k_stride[0] = shared ? 0 : s.length * c.kv_heads * c.dim;
    s.k_stride[1] = int64_t{c.kv_heads} * c.dim;
    s.k_stride[2] = c.dim;
    s.v_stride[0] = shared ? 0 : s.length * c.kv_heads * c.dim_v;
    s.v_stride[1] = c.dim_v;
    s.v_stride[2] = s.length * c.dim_v;
    if (coin(0.3)) {
      p.counts.emplace_back(new int32_t[c.batch]);
      for (int b = 0; b < c.batch; ++b) {
        p.counts.back()[b] = coin(0.1) ? -3 : pick(0, static_cast<int>(s.length) + 2);
      }
      s.lens = p.counts.back().get();
    }
    if (coin(0.4)) {
      p.bytes.emplace_back(new uint8_t[c.batch * s.length]);
      for (int64_t j = 0; j < c.batch * s.length; ++j) p.bytes.back()[j] = coin() ? pick(1, 255) : 0;
      s.key_valid = p.bytes.back().get();
      s.key_valid_stride = s.length;
      // What is hidden from every batch may be anything.
      for (int64_t j = 0; j < s.length; ++j) {
        bool hidden = true;
        for (int b = 0; b < c.batch; ++b) hidden = hidden && s.key_valid[b * s.length + j] == 0;
        for (int64_t b = 0; b < own && hidden; ++b) {
          for (int64_t at = 0; at < int64_t{c.kv_heads} * c.dim; ++at) {
            k[b * s.k_stride[0] + j * s.k_stride[1] + at] = coin() ? kNan : kInf;
          }
          for (int64_t h = 0; h < c.kv_heads; ++h) {
            v[b * s.v_stride[0] + j * s.v_stride[1] + h * s.v_stride[2]] = kNan;
          }
        }
      }
    }
    if (coin(0.4)) {
      const bool by[3] = {coin(), coin(), coin()};
      const int64_t sizes[3] = {by[0] ? c.batch : 1, by[1] ? c.heads : 1, by[2] ? c.rows : 1};
      float* bias = p.keep(sizes[0] * sizes[1] * sizes[2] * s.length);
      for (int64_t at = 0; at < sizes[0] * sizes[1] * sizes[2] * s.length; ++at) {
        if (coin(0.2)) bias[at] = -kInf;
      }
      s.bias = bias;
      s.bias_dtype = MMEDGE_F32;
      s.bias_stride[2] = by[2] ? s.length : 0;
      s.bias_stride[1] = by[1] ? sizes[2] * s.length : 0;
      s.bias_stride[0] = by[0] ? sizes[1] * sizes[2] * s.length : 0;
    }
  }
  return p;
}

// Output and log-sum-exp of one row in double.
void reference(const mmedge_segattn& c, int64_t b, int64_t h, int64_t i, std::vector<double>& out,
               double& lse) {
  const int64_t kv = h / (c.heads / c.kv_heads);
  const float* q = static_cast<const float*>(c.q) + b * c.q_stride[0] + i * c.q_stride[1] +
                   h * c.q_stride[2];
  out.assign(c.dim_v, 0.0);
  std::vector<double> mixed(c.dim_v, 0.0);
  double sum = 0.0;
  for (int s = 0; s < c.segments; ++s) {
    const mmedge_segment& g = c.segment[s];
    int64_t length = g.length;
    if (g.lens != nullptr) length = std::max<int64_t>(0, std::min<int64_t>(length, g.lens[b]));
    for (int64_t j = 0; j < length; ++j) {
      if (g.key_valid != nullptr && g.key_valid[b * g.key_valid_stride + j] == 0) continue;
      double add = 0.0;
      if (g.bias != nullptr) {
        add += static_cast<const float*>(g.bias)[b * g.bias_stride[0] + h * g.bias_stride[1] +
                                                 i * g.bias_stride[2] + j];
      }
      if (c.seg_bias != nullptr) {
        add += c.seg_bias[b * c.seg_bias_stride[0] + h * c.seg_bias_stride[1] + s];
      }
      if (add == -kInf) continue;
      const float* k = static_cast<const float*>(g.k) + b * g.k_stride[0] + j * g.k_stride[1] +
                       kv * g.k_stride[2];
      const float* v = static_cast<const float*>(g.v) + b * g.v_stride[0] + j * g.v_stride[1] +
                       kv * g.v_stride[2];
      double score = 0.0;
      for (int d = 0; d < c.dim; ++d) score += double{q[d]} * k[d];
      // Scores are small here: no maximum is needed.
      const double weight = std::exp(double{c.scale} * score + add);
      sum += weight;
      for (int d = 0; d < c.dim_v; ++d) mixed[d] += weight * v[d];
    }
    if (c.mode == MMEDGE_INDEPENDENT) {
      const double gamma =
          c.gamma == nullptr ? 1.0 : c.gamma[b * c.gamma_stride[0] + h * c.gamma_stride[1] + s];
      for (int d = 0; d < c.dim_v && sum > 0.0; ++d) out[d] += gamma * mixed[d] / sum;
      mixed.assign(c.dim_v, 0.0);
      sum = 0.0;
    }
  }
  if (c.mode == MMEDGE_JOINT) {
    for (int d = 0; d < c.dim_v && sum > 0.0; ++d) out[d] = mixed[d] / sum;
    lse = sum > 0.0 ? std::log(sum) : -kInf;
  }
}

void compare(const Problem& p) {
  const mmedge_segattn& c = p.call;
  std::vector<double> wanted;
  for (int64_t b = 0; b < c.batch; ++b) {
    for (int64_t h = 0; h < c.heads; ++h) {
      for (int64_t i = 0; i < c.rows; ++i) {
        double lse = 0.0;
        reference(c, b, h, i, wanted, lse);
        const float* out = p.out.get() + b * c.out_stride[0] + i * c.out_stride[1] +
                           h * c.out_stride[2];
        for (int d = 0; d < c.dim_v; ++d) {
          expect(std::abs(out[d] - wanted[d]) <= 2e-5 * (1.0 + std::abs(wanted[d])), "output");
        }
        if (c.lse == nullptr) continue;
        const float got = p.lse[(b * c.heads + h) * c.rows + i];
        expect(got == lse || std::abs(got - lse) <= 2e-5 * (1.0 + std::abs(lse)), "log-sum-exp");
      }
    }
  }
}

void run(Problem& p, void* pool) {
  size_t bytes = 0;
  expect(mmedge_segattn_cpu_workspace(&p.call, &bytes) == MMEDGE_OK, "workspace");
  void* memory = bytes > 0 ? std::aligned_alloc(64, (bytes + 63) / 64 * 64) : nullptr;
  for (int64_t i = 0; i < p.out_size; ++i) p.out[i] = kNan;
  expect(mmedge_segattn_cpu(&p.call, memory, pool == nullptr ? nullptr : mmedge_pool_run, pool) ==
             MMEDGE_OK,
         "run");
  std::free(memory);
}

void test_random_problems(const char* isa, int count) {
  expect(mmedge_cpu_use_isa(isa) == MMEDGE_OK, isa);
  void* pool = mmedge_pool_create(3);
  for (int n = 0; n < count; ++n) {
    Problem p = make();
    run(p, nullptr);
    compare(p);
    std::vector<float> alone(p.out.get(), p.out.get() + p.out_size);
    run(p, pool);
    expect(std::memcmp(alone.data(), p.out.get(), alone.size() * sizeof(float)) == 0,
           "three threads give the same bits as one");
  }
  mmedge_pool_destroy(pool);
}

// Callers that come at once to one pool, many times over.
void test_pool() {
  void* pool = mmedge_pool_create(4);
  std::vector<std::thread> callers;
  for (int t = 0; t < 3; ++t) {
    callers.emplace_back([pool] {
      for (int round = 0; round < 300; ++round) {
        std::vector<int> seen(17, 0);
        mmedge_pool_run(
            pool, seen.size(),
            [](void* arg, size_t i) { ++(*static_cast<std::vector<int>*>(arg))[i]; }, &seen);
        for (int count : seen) expect(count == 1, "each task runs once");
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  mmedge_pool_destroy(pool);
  mmedge_pool_destroy(nullptr);
}

// Tasks that call the pool that runs them, and another one whose tasks call the first again.
void test_nested_pools() {
  struct Pools {
    void* one;
    void* other;
    std::atomic<int> count{0};
  } pools;
  pools.one = mmedge_pool_create(4);
  pools.other = mmedge_pool_create(3);
  const auto leaf = [](void* arg, size_t) { ++static_cast<Pools*>(arg)->count; };
  struct Inner {
    static void again(void* arg, size_t) {
      auto* p = static_cast<Pools*>(arg);
      mmedge_pool_run(p->one, 5, [](void* a, size_t) { ++static_cast<Pools*>(a)->count; }, arg);
    }
    static void across(void* arg, size_t) {
      auto* p = static_cast<Pools*>(arg);
      mmedge_pool_run(p->other, 6, again, arg);
      mmedge_pool_destroy(p->one);  // of a task of its own: refused
    }
  };
  for (int round = 0; round < 100; ++round) {
    pools.count = 0;
    mmedge_pool_run(pools.one, 7, Inner::again, &pools);
    expect(pools.count == 35, "a task runs its own pool");
    pools.count = 0;
    mmedge_pool_run(pools.one, 7, Inner::across, &pools);
    expect(pools.count == 7 * 6 * 5, "a task runs another pool, whose task runs the first");
  }
  mmedge_pool_destroy(pools.one);
  mmedge_pool_destroy(pools.other);
  pools.count = 0;
  mmedge_pool_run(nullptr, 5, leaf, &pools);
  expect(pools.count == 5, "no pool: on the calling thread");
  mmedge_pool_run(nullptr, 5, nullptr, &pools);
  expect(std::strstr(mmedge_last_error(), "task") != nullptr, "no task");
  expect(mmedge_pool_create(1 << 30) == nullptr, "threads");
}

void expect_invalid(const mmedge_segattn& call, const char* what) {
  size_t bytes = 1;
  expect(mmedge_segattn_cpu_workspace(&call, &bytes) == MMEDGE_INVALID, what);
  expect(mmedge_segattn_cpu(&call, nullptr, nullptr, nullptr) == MMEDGE_INVALID, what);
}

// Sizes whose products or strides whose reach have no number.
void test_overflows() {
  Problem p = make();
  const mmedge_segattn good = p.call;
  size_t bytes = 0;
  expect(mmedge_segattn_cpu_workspace(&good, &bytes) == MMEDGE_OK, "sizes that fit");
  expect(mmedge_segattn_cpu_workspace(&good, nullptr) == MMEDGE_INVALID, "no bytes");
  expect(mmedge_segattn_workspace(&good, nullptr) == MMEDGE_INVALID, "no bytes of a GPU");
  const auto with = [&](auto change) {
    mmedge_segattn call = good;
    change(call);
    return call;
  };
  const int big = 1 << 30;
  const auto flat = [](mmedge_segattn& c) {  // every tensor repeats its first element
    for (int axis = 0; axis < 3; ++axis) c.q_stride[axis] = c.out_stride[axis] = 0;
    for (int i = 0; i < c.segments; ++i) {
      mmedge_segment& s = c.segment[i];
      for (int axis = 0; axis < 3; ++axis) s.k_stride[axis] = s.v_stride[axis] = 0;
      s.bias = nullptr;
      s.key_valid = nullptr;
      s.lens = nullptr;
    }
    c.seg_bias = c.gamma = nullptr;
    c.lse = nullptr;
  };
  for (int splits : {0, 1, 2, INT32_MAX}) {
    for (int rows : {1, 2, 64, big, INT32_MAX}) {
      for (int batch : {1, big, INT32_MAX}) {
        mmedge_segattn call = with(flat);
        call.mode = MMEDGE_JOINT;
        call.num_splits = splits;
        call.batch = batch;
        call.heads = call.kv_heads = batch == 1 ? INT32_MAX : big;
        call.rows = rows;
        bytes = 1;
        const mmedge_status status = mmedge_segattn_cpu_workspace(&call, &bytes);
        const __int128 all = __int128{call.batch} * call.heads * call.rows *
                             (call.dim > call.dim_v ? call.dim : call.dim_v) * 4;
        expect(all <= INT64_MAX || status == MMEDGE_INVALID, "batch, heads and rows");
        expect(status != MMEDGE_OK || splits < 2 || bytes > 0, "a workspace that overflows to 0");
        if (status == MMEDGE_OK && bytes > 0) {
          expect(mmedge_segattn_cpu(&call, nullptr, nullptr, nullptr) == MMEDGE_INVALID, "memory");
        }
      }
    }
  }
  for (int64_t step : {INT64_MAX, INT64_MIN, INT64_MAX / 2, -(INT64_MAX / 2), int64_t{1} << 61}) {
    for (int axis = 0; axis < 3; ++axis) {
      const auto steep = [&](auto change) {
        mmedge_segattn call = with(flat);
        call.batch = call.rows = call.heads = call.kv_heads = 3;
        call.segments = 1;
        call.segment[0].length = 3;
        call.segment[0].k = call.segment[0].v = call.q;
        change(call);
        return call;
      };
      expect_invalid(steep([&](mmedge_segattn& c) { c.q_stride[axis] = step; }), "q");
      expect_invalid(steep([&](mmedge_segattn& c) { c.out_stride[axis] = step; }), "out");
      expect_invalid(steep([&](mmedge_segattn& c) { c.segment[0].k_stride[axis] = step; }), "k");
      expect_invalid(steep([&](mmedge_segattn& c) { c.segment[0].v_stride[axis] = step; }), "v");
      expect_invalid(steep([&](mmedge_segattn& c) {
                       c.segment[0].bias = c.q;
                       for (int a = 0; a < 3; ++a) c.segment[0].bias_stride[a] = 0;
                       c.segment[0].bias_stride[axis] = step;
                     }),
                     "bias");
      if (axis == 2) continue;
      expect_invalid(steep([&](mmedge_segattn& c) {
                       c.mode = MMEDGE_JOINT;
                       c.seg_bias = static_cast<const float*>(c.q);
                       c.seg_bias_stride[0] = c.seg_bias_stride[1] = 0;
                       c.seg_bias_stride[axis] = step;
                     }),
                     "seg_bias");
    }
  }
  expect_invalid(with([](mmedge_segattn& c) { c.segment[0].length = INT64_MAX; }), "length");
  expect_invalid(with([](mmedge_segattn& c) { c.segment[0].length = int64_t{1} << 31; }), "length");
  expect_invalid(with([](mmedge_segattn& c) { c.q = nullptr; }), "q is null");
  expect_invalid(with([](mmedge_segattn& c) { c.out = nullptr; }), "out is null");
  expect_invalid(with([](mmedge_segattn& c) {
                   c.segment[0].length = 1;
                   c.segment[0].v = nullptr;
                 }),
                 "v is null");
}

void test_refusals() {
  expect(mmedge_segattn_cpu(nullptr, nullptr, nullptr, nullptr) == MMEDGE_INVALID, "null");
  Problem p = make();
  p.call.kv_heads = p.call.heads + 1;
  expect(mmedge_segattn_cpu(&p.call, nullptr, nullptr, nullptr) == MMEDGE_INVALID, "kv_heads");
  p = make();
  p.call.segment[0].dtype = MMEDGE_F16;
  expect(mmedge_segattn_cpu(&p.call, nullptr, nullptr, nullptr) == MMEDGE_UNSUPPORTED, "dtype");
  expect(mmedge_cpu_use_isa("none") == MMEDGE_UNSUPPORTED, "instruction set");
}

}  // namespace

int main(int argc, char** argv) {
  const int count = argc > 1 ? std::atoi(argv[1]) : 300;
  for (const char* isa : {"avx512", "avx2", "neon", "portable"}) {
    if (mmedge_cpu_use_isa(isa) == MMEDGE_OK) {
      test_random_problems(isa, count);
      std::printf("%s: %d problems\n", isa, count);
    }
  }
  test_pool();
  test_nested_pools();
  test_overflows();
  test_refusals();
  std::printf("passed\n");
  return 0;
}
