// Routed experts beside a shared one, for a few tokens. Each thread streams some rows of every matrix, from one end to the
// other; tokens of one expert are handled together, so that its weights are read once.
#include <vector>

#include "products.h"
#include "step.h"

namespace tandem {
namespace {

// softmax of the scores of each token, its K best (by score + bias), and their weights, which add up to 1.
void choose(const Mixture& s, float* scores, int64_t* expert, float* weight) {
  std::vector<float> rank(s.E);
  for (int64_t d = 0; d < s.S; ++d) {
    float* score = scores + d * s.E;
    const float top = *std::max_element(score, score + s.E);
    float sum = 0;
    for (int64_t e = 0; e < s.E; ++e) sum += score[e] = fast_exp(score[e] - top);
    for (int64_t e = 0; e < s.E; ++e) rank[e] = (score[e] /= sum) + (s.bias ? s.bias[e] : 0.0f);
    float chosen = 0;
    for (int64_t k = 0; k < s.K; ++k) {
      const int64_t best = std::max_element(rank.begin(), rank.end()) - rank.begin();
      rank[best] = -INFINITY;
      expert[d * s.K + k] = best;
      chosen += weight[d * s.K + k] = score[best];
    }
    for (int64_t k = 0; k < s.K; ++k) weight[d * s.K + k] /= chosen;
  }
}

template <class T, class W>
class Mixing {
  using X = typename Operand<T, W>::X;
  const Mixture& s;
  const Team& team;
  const Rows<T, W> x;
  const int64_t choices;
  // Scratch: sums of each thread (choices, 2F) and (S, D); of all, (S, D) and (S, shared F) of the shared expert.
  float *sums, *made, *shared;
  T* hidden;
  std::vector<int64_t> expert, order;  // order: choices sorted by expert
  std::vector<float> weight;

 public:
  Mixing(const Mixture& s, const Team& team)
      : s(s), team(team), x((const T*)s.x, s.S, s.D), choices(s.S * s.K), expert(choices), weight(choices) {
    sums = s.scratch, made = sums + s.threads * choices * 2 * s.F;
    shared = made + s.threads * s.S * s.D, hidden = (T*)(shared + s.S * s.D);
  }

  void route() {
    const Rows<T, float> wide((const T*)s.x, s.S, s.D);
    const auto mine = team.share(s.S * s.E);
    for (int64_t i = mine.first; i < mine.last; ++i)
      dots<1, 1>(wide.row(i / s.E), s.router + i % s.E * s.D, s.D, 0, s.scratch + i);
    team.meet();
    std::vector<float> scores(s.scratch, s.scratch + s.S * s.E);
    choose(s, scores.data(), expert.data(), weight.data());
    team.meet();  // the scratch is used again
    for (int64_t i = 0; i < choices; ++i) order.push_back(i);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return expert[a] < expert[b]; });
    if (team.index > 0) return;
    std::copy(expert.begin(), expert.end(), s.expert);
    std::copy(weight.begin(), weight.end(), s.weight);
    std::copy(scores.begin(), scores.end(), s.scores);
  }

  void into() {
    const auto rows = team.share(s.D, 8);
    float* mine = sums + team.index * choices * 2 * s.F;
    std::memset(mine, 0, choices * 2 * s.F * sizeof(float));
    each_expert([&](int64_t e, const int64_t* choice, auto M) {
      const X* from[M];
      float* to[M];
      for (int m = 0; m < M; ++m) from[m] = x.row(choice[m] / s.K) + rows.first, to[m] = mine + choice[m] * 2 * s.F;
      const W* w = (const W*)s.gate_up.data + (e * s.D + rows.first) * 2 * s.F;
      add_down<M>(from, w, rows.last - rows.first, 2 * s.F, 2 * s.F, to);
    });
    if (s.shared_F) into_shared();
    team.meet();
  }

  void out() {
    const auto columns = team.share(s.F, 32);
    const int64_t count = columns.last - columns.first;
    float* mine = made + team.index * s.S * s.D;
    std::memset(mine, 0, s.S * s.D * sizeof(float));
    std::vector<T> part(choices * count);
    for (int64_t c = 0; c < choices; ++c) activate(c, columns.first, count, part.data() + c * count);
    const Rows<T, W> rows(part.data(), choices, count);
    std::vector<float> sum(8 * s.D);
    each_expert([&](int64_t e, const int64_t* choice, auto M) {
      const X* from[M];
      float* to[M];
      for (int m = 0; m < M; ++m) from[m] = rows.row(choice[m]), to[m] = sum.data() + m * s.D;
      std::fill(sum.begin(), sum.end(), 0.0f);
      add_down<M>(from, (const W*)s.down.data + (e * s.F + columns.first) * s.D, count, s.D, s.D, to);
      for (int m = 0; m < M; ++m) {
        settle_all<X, W>(to[m], s.D);
        const float* scale = s.down.scale ? s.down.scale + e * s.D : nullptr;
        float* y = mine + choice[m] / s.K * s.D;
        for (int64_t d = 0; d < s.D; ++d) y[d] += to[m][d] * (scale ? scale[d] * rows.scale(choice[m]) : 1.0f);
      }
    });
    if (s.shared_F) out_shared();
    team.meet();
  }

  void gather() {
    const auto mine = team.share(s.S * s.D, LANES);
    for (int64_t i = mine.first; i < mine.last; ++i) {
      float sum = s.shared_F ? shared[i] : 0.0f;
      for (int64_t t = 0; t < team.size; ++t) sum += made[t * s.S * s.D + i];
      ((T*)s.y)[i] = narrow<T>(sum);
    }
    team.meet();
  }

 private:
  // Calls each(expert, choices, M) for M choices of one expert.
  template <class Each>
  void each_expert(Each&& each) {
    for (int64_t first = 0, end; first < choices; first = end) {
      const int64_t e = expert[order[first]];
      for (end = first; end < choices && expert[order[end]] == e;) ++end;
      in_tiles(end - first, [&](int64_t at, auto M) { each(e, order.data() + first + at, M); });
    }
  }

  // silu(gate) · up · weight of one choice, some columns, from the sums of all threads.
  void activate(int64_t choice, int64_t first, int64_t count, T* to) {
    std::vector<float> both(2 * count), sum(count);
    for (int64_t half = 0; half < 2; ++half)
      for (int64_t t = 0; t < team.size; ++t) {
        const float* from = sums + (t * choices + choice) * 2 * s.F + half * s.F + first;
        std::copy(from, from + count, sum.begin());
        settle_all<X, W>(sum.data(), count);
        for (int64_t f = 0; f < count; ++f) both[half * count + f] += sum[f];
      }
    float *gate = both.data(), *up = gate + count;
    if (s.gate_up.scale) {
      const float* scale = s.gate_up.scale + expert[choice] * 2 * s.F + first;
      for (int64_t f = 0; f < count; ++f) {
        gate[f] *= scale[f] * x.scale(choice / s.K);
        up[f] *= scale[s.F + f] * x.scale(choice / s.K);
      }
    }
    const float by = weight[choice];
#pragma omp simd
    for (int64_t f = 0; f < count; ++f) to[f] = narrow<T>(gate[f] * sigmoid(gate[f]) * up[f] * by);
  }

  void into_shared() {
    const W* w = (const W*)s.shared_gate_up.data;
    const float* scale = s.shared_gate_up.scale;
    const auto mine = team.share(s.shared_F);
    for (int64_t f = mine.first; f < mine.last; ++f)
      in_tiles(s.S, [&](int64_t d, auto M) {
        float both[2 * M];
        dots<M, 2>(x.row(d), w + f * s.D, s.D, s.shared_F * s.D, both);
        for (int m = 0; m < M; ++m) {
          const float g = both[2 * m] * (scale ? scale[f] * x.scale(d + m) : 1.0f);
          const float u = both[2 * m + 1] * (scale ? scale[s.shared_F + f] * x.scale(d + m) : 1.0f);
          hidden[(d + m) * s.shared_F + f] = narrow<T>(g * sigmoid(g) * u);
        }
      });
  }

  void out_shared() {
    const Rows<T, W> rows(hidden, s.S, s.shared_F);
    const float* scale = s.shared_down.scale;
    const auto mine = team.share(s.D, 2);
    for (int64_t o = mine.first; o < mine.last; o += 2)
      in_tiles(s.S, [&](int64_t d, auto M) {
        float sum[2 * M];
        dots<M, 2>(rows.row(d), (const W*)s.shared_down.data + o * s.shared_F, s.shared_F, s.shared_F, sum);
        for (int m = 0; m < M; ++m)
          for (int r = 0; r < 2; ++r)
            shared[(d + m) * s.D + o + r] = sum[2 * m + r] * (scale ? scale[o + r] * rows.scale(d + m) : 1.0f);
      });
  }
};

template <class T, class W>
void mixture(const Mixture& s, const Team& team) {
  Mixing<T, W> step(s, team);
  step.route();
  step.into();
  step.out();
  step.gather();
}

}  // namespace

void run(const Mixture& s, const Team& team) { TANDEM_BY_FORMATS(mixture, s, s.gate_up.format) }

}  // namespace tandem
