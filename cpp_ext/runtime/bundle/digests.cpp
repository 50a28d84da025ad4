// The SHA-256 of a bundle's files, of large ones in several threads.
#include "bundle/digests.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace mmedge::runtime {

namespace {

// Bytes from which a file is worth a thread: 0.15 ms of one core's work, more than a thread takes
// to start.
constexpr uint64_t kLarge = uint64_t{1} << 18;

// Threads, besides the one that waits for them.
constexpr size_t kMaxThreads = 3;

struct File {
  const std::string* name;
  const std::string* expected;
  uint64_t size;
  std::string digest;
};

// Takes files one by one, in any number of threads.
class Work {
 public:
  Work(Archive& archive, std::vector<File>& files) : archive_(archive), files_(files) {}

  void run() noexcept {
    for (size_t i = next_++; i < files_.size() && !has_failed_; i = next_++) {
      try {
        files_[i].digest = archive_.digest(*files_[i].name);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!has_failed_.exchange(true)) error_ = std::current_exception();
      }
    }
  }

  // Of the file that failed first. Not before the threads have ended.
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  Archive& archive_;
  std::vector<File>& files_;
  std::atomic<size_t> next_{0};
  std::atomic<bool> has_failed_{false};
  std::mutex mutex_;
  std::exception_ptr error_;
};

}  // namespace

void check_digests(Archive& archive, const std::map<std::string, std::string>& files) {
  std::vector<File> work;
  work.reserve(files.size());
  size_t large = 0;
  for (const auto& [name, expected] : files) {
    const auto found = archive.sizes().find(name);
    if (found == archive.sizes().end()) {
      throw Error(Code::kBundle, archive.path() + ": missing file " + name +
                                     "; copy or export the bundle again");
    }
    work.push_back({&name, &expected, found->second, ""});
    large += found->second >= kLarge;
  }
  // The largest first, so that no thread is left with it at the end.
  std::stable_sort(work.begin(), work.end(),
                   [](const File& a, const File& b) { return a.size > b.size; });
  Work shared(archive, work);
  const size_t cores = std::max(1u, std::thread::hardware_concurrency());
  const size_t count = std::min({large, kMaxThreads, std::max<size_t>(1, cores - 1)});
  std::vector<std::thread> threads;
  threads.reserve(count);
  try {
    for (size_t i = 0; i < count; ++i) threads.emplace_back([&shared] { shared.run(); });
  } catch (const std::system_error&) {
    // The system gives no more threads: this one does what is left.
  }
  shared.run();
  for (std::thread& thread : threads) thread.join();
  shared.rethrow();
  for (const File& file : work) {
    if (file.digest != *file.expected) {
      throw Error(Code::kBundle, archive.path() + ": " + *file.name +
                                     " is altered: expected SHA-256 " + *file.expected + ", got " +
                                     file.digest + "; copy or export the bundle again");
    }
  }
}

}  // namespace mmedge::runtime
