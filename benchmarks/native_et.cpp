/* A minimal ExecuTorch loop in C++: what native code measures around one forward().
 *
 * et_loop MODEL ROWS WIDTH SECONDS: one float32 input [ROWS, WIDTH], one output as large. Prints the
 * median of the iterations in nanoseconds, how many there were, and the sum of the last output.
 */
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

// The package has the library without this header.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool *get_threadpool();
}

using executorch::extension::Module;
using Clock = std::chrono::steady_clock;

int main(int argc, char **argv) {
  if (argc != 5) return std::fprintf(stderr, "usage: et_loop MODEL ROWS WIDTH SECONDS\n"), 2;
  const int32_t rows = std::atoi(argv[2]), width = std::atoi(argv[3]);
  const size_t count = size_t(rows) * size_t(width);
  std::vector<float> x(count);
  for (size_t i = 0; i < count; i++) x[i] = float((i * 2654435761u) % 1000) / 500.0f - 1.0f;

  executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(1);
  Module module(argv[1]);
  auto input = executorch::extension::from_blob(x.data(), {rows, width});
  std::vector<int64_t> took;
  took.reserve(1 << 22);
  const auto warm = Clock::now() + std::chrono::milliseconds(300);
  const auto end = warm + std::chrono::nanoseconds(int64_t(std::atof(argv[4]) * 1e9));
  double sum = 0;
  for (auto stop = Clock::now(); stop < end;) {
    const auto start = Clock::now();
    auto output = module.forward(input);
    stop = Clock::now();
    if (!output.ok()) return std::fprintf(stderr, "error 0x%x\n", unsigned(output.error())), 1;
    if (start < warm) continue;
    took.push_back(std::chrono::nanoseconds(stop - start).count());
    if (stop < end) continue;
    const auto y = output->at(0).toTensor();
    for (ssize_t i = 0; i < y.numel(); i++) sum += y.const_data_ptr<float>()[i];
  }
  std::nth_element(took.begin(), took.begin() + took.size() / 2, took.end());
  std::printf("%lld %zu %.6g\n", (long long)took[took.size() / 2], took.size(), sum);
}
