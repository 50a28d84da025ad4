// Gives a parser changed inputs without end, for the `fuzz` mode of probes.
//
//   PROBE fuzz KIND SEED COUNT [...] < seeds    each seed: its size in 8 bytes, and its bytes
//
// The seeds come first, as they are. Prints of the changed inputs how many there were and how many
// were taken, and of all the slowest and how far memory rose above what the seeds took, as JSON.
// Ends with 1 where one input took more than kSeconds of processor time or kMegabytes; a sanitizer
// ends it otherwise, and an input that never returns by an alarm.
#ifndef MMEDGE_TESTS_NATIVE_RUNTIME_FUZZ_LOOP_H_
#define MMEDGE_TESTS_NATIVE_RUNTIME_FUZZ_LOOP_H_

#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

namespace mmedge::runtime {

// Limits of one input. Time is the process's own: a full machine makes no input slow.
constexpr double kSeconds = 1.0;
constexpr double kMegabytes = 64;
// A changed input has at most so many bytes; so many that were taken are changed further.
constexpr size_t kMostBytes = 1 << 18, kMostKept = 4096;

// Splitmix64: the same inputs from the same seed, with any standard library.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    state_ += 0x9e3779b97f4a7c15;
    uint64_t z = (state_ ^ state_ >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
  // 0 where there is nothing below.
  size_t below(size_t limit) { return limit == 0 ? 0 : static_cast<size_t>(next() % limit); }

 private:
  uint64_t state_;
};

// Of bytes, a number written out, or a piece of this or of another input.
inline void change(std::string* data, const std::vector<std::string>& seeds, Random* random) {
  static const char* const kWords[] = {
      "null", "-1",   "-0", "1e400", "9223372036854775808", "[]",   "{}",  "[",       "]",
      "{",    "}",    "\"", "\\u",   "\\ud800",             "NaN",  ",",   ":",       "0",
      "true", "\xff", "[[[[", "\"a\":1,", "(?:",            "{2,}", "F64", "\"U8\""};
  const size_t at = random->below(data->size() + 1), length = random->below(48);
  const std::string& other = seeds[random->below(seeds.size())];
  switch (random->below(10)) {
    case 0:
      if (at < data->size()) (*data)[at] ^= static_cast<char>(1 << random->below(8));
      break;
    case 1:
      if (at < data->size()) (*data)[at] = static_cast<char>(random->next());
      break;
    case 2: data->erase(at, length); break;
    case 3: data->insert(at, data->substr(random->below(data->size() + 1), length)); break;
    case 4: data->replace(at, length, other, random->below(other.size() + 1), random->below(200)); break;
    case 5: data->insert(at, kWords[random->below(std::size(kWords))]); break;
    case 6: {  // a number in decimal digits becomes another one
      const size_t digit = data->find_first_of("0123456789", at);
      if (digit == std::string::npos) break;
      const size_t end = data->find_first_not_of("0123456789.eE", digit);
      const int64_t sign = random->below(9) == 0 ? -(1 << 20) : 1;
      data->replace(digit, std::min(end, data->size()) - digit,
                    std::to_string(sign * static_cast<int64_t>(random->below(1 << 20))));
      break;
    }
    case 7: {  // one of 2 to 8 bytes becomes another one
      const uint64_t values[] = {0, 1, 0xFFFF, 0xFFFFFFFF, ~uint64_t{0}, random->next()};
      const uint64_t value = values[random->below(std::size(values))];
      const size_t size = size_t{2} << random->below(3);
      for (size_t i = 0; i < size && at + i < data->size(); ++i) {
        (*data)[at + i] = static_cast<char>(value >> (8 * i));
      }
      break;
    }
    case 8:  // one in groups of seven bits goes on
      data->insert(at, std::string(1 + random->below(11), static_cast<char>(0x80 + random->below(128))));
      break;
    default: data->resize(data->size() - std::min(data->size(), random->below(30)));
  }
}

inline double processor_seconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

inline double peak_megabytes() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024 / 1e6;
}

// What a probe was asked for, and the seeds on its standard input.
class FuzzLoop {
 public:
  // Of the program's arguments after `fuzz`. Ends the program where they are none or there is no
  // seed.
  FuzzLoop(int count, char** words) {
    if (count < 3) fail("expected KIND SEED COUNT");
    kind = words[0];
    random_ = Random(std::strtoull(words[1], nullptr, 10));
    count_ = std::strtoull(words[2], nullptr, 10);
    more.assign(words + 3, words + count);
    const std::string data(std::istreambuf_iterator<char>(std::cin), {});
    for (size_t at = 0; at < data.size();) {
      uint64_t size = 0;
      for (size_t i = 0; i < 8 && at + i < data.size(); ++i) {
        size |= static_cast<uint64_t>(static_cast<uint8_t>(data[at + i])) << (8 * i);
      }
      at += 8;
      if (at > data.size() || size > data.size() - at) fail("a seed has less bytes than it says");
      seeds_.push_back(data.substr(at, size));
      at += size;
    }
    if (seeds_.empty()) fail("there is no seed");
  }

  std::string kind;
  std::vector<std::string> more;  // the arguments after COUNT

  // Calls `is_taken` with each input, and `mend` before on half of the changed ones: it may make
  // good what a change always breaks, such as a size. Returns the program's exit status.
  template <typename IsTaken, typename Mend>
  int run(IsTaken is_taken, Mend mend) {
    std::vector<std::string> pool = seeds_;
    for (const std::string& seed : seeds_) is_taken(seed);  // tables that are made once
    const double base = peak_megabytes();
    uint64_t taken = 0, inputs = 0;
    double slowest = 0, peak = 0;
    for (; inputs < seeds_.size() + count_; ++inputs) {
      const bool is_seed = inputs < seeds_.size();
      std::string data = is_seed ? seeds_[inputs] : pool[random_.below(pool.size())];
      if (!is_seed) {
        for (size_t changes = 1 + random_.below(5); changes > 0; --changes) {
          change(&data, seeds_, &random_);
        }
        if (random_.below(2) == 0) mend(&data);
        data.resize(std::min(data.size(), kMostBytes));
      }
      alarm(60);  // one that never returns ends the program
      const double begin = processor_seconds();
      const bool good = is_taken(data);
      const double seconds = processor_seconds() - begin;
      slowest = std::max(slowest, seconds);
      const double grown = peak_megabytes() - base - peak;
      peak += grown;
      if (seconds > kSeconds || grown > kMegabytes) {
        std::fprintf(stderr, "input %llu: %.1f s, %.0f MB for %zu bytes\n",
                     static_cast<unsigned long long>(inputs), seconds, grown, data.size());
        return 1;
      }
      if (!good || is_seed) continue;
      ++taken;
      // What is taken is changed further, so that changes add up.
      if (pool.size() < seeds_.size() + kMostKept) {
        pool.push_back(data);
      } else {
        pool[seeds_.size() + random_.below(kMostKept)] = data;
      }
    }
    std::printf("{\"inputs\":%llu,\"taken\":%llu,\"slowest_s\":%.4f,\"peak_mb\":%.1f}\n",
                static_cast<unsigned long long>(count_), static_cast<unsigned long long>(taken),
                slowest, peak);
    return 0;
  }

  template <typename IsTaken>
  int run(IsTaken is_taken) {
    return run(is_taken, [](std::string*) {});
  }

 private:
  [[noreturn]] static void fail(const char* what) {
    std::fprintf(stderr, "%s\n", what);
    std::exit(2);
  }

  Random random_{0};
  uint64_t count_ = 0;
  std::vector<std::string> seeds_;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_TESTS_NATIVE_RUNTIME_FUZZ_LOOP_H_
