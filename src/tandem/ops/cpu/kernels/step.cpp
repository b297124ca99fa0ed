// Runs a list of instructions with all threads.
#include "step.h"

namespace tandem {
namespace {

template <class Instruction>
void run_at(const void* instruction, const Team& team) {
  run(*(const Instruction*)instruction, team);
}

// In the order of `KINDS` of instructions.py.
constexpr void (*RUN[])(const void*, const Team&) = {
    run_at<Embed>,   run_at<AddNorm>,   run_at<Linear>, run_at<Activate>,
    run_at<Mixture>, run_at<MambaStep>, run_at<Place>,  run_at<Attend>,
};

}  // namespace
}  // namespace tandem

extern "C" void tandem_run(int64_t count, int threads, const int64_t* kinds, const void* const* instructions) {
#pragma omp parallel num_threads(threads)
  {
    const tandem::Team team{omp_get_thread_num(), omp_get_num_threads()};
    for (int64_t i = 0; i < count; ++i) tandem::RUN[kinds[i]](instructions[i], team);
  }
}
