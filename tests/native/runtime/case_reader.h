// Cases of a test on the standard input: words, numbers and tensors.
#ifndef MMEDGE_TESTS_NATIVE_RUNTIME_CASE_READER_H_
#define MMEDGE_TESTS_NATIVE_RUNTIME_CASE_READER_H_

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "tensor.h"

namespace mmedge::runtime {

class CaseReader {
 public:
  CaseReader() {
    uint8_t buffer[1 << 16];
    size_t count;
    while ((count = std::fread(buffer, 1, sizeof buffer, stdin)) > 0) {
      data_.insert(data_.end(), buffer, buffer + count);
    }
  }

  bool is_done() {
    while (at_ < data_.size() && (data_[at_] == ' ' || data_[at_] == '\n')) ++at_;
    return at_ == data_.size();
  }

  std::string word() {
    if (is_done()) fail("a word");
    const size_t begin = at_;
    while (at_ < data_.size() && data_[at_] != ' ' && data_[at_] != '\n') ++at_;
    return std::string(data_.begin() + static_cast<std::ptrdiff_t>(begin),
                       data_.begin() + static_cast<std::ptrdiff_t>(at_));
  }

  int64_t whole() { return std::strtoll(word().c_str(), nullptr, 10); }
  uint64_t natural() { return std::strtoull(word().c_str(), nullptr, 10); }
  double number() { return std::strtod(word().c_str(), nullptr); }  // 0x1p-3, inf, nan as well

  std::vector<int64_t> wholes() {
    std::vector<int64_t> numbers(static_cast<size_t>(whole()));
    for (int64_t& number : numbers) number = whole();
    return numbers;
  }

  // DTYPE RANK SIZE... and, after one byte of space, the elements.
  Tensor tensor() {
    Tensor tensor;
    if (!parse_dtype(word(), &tensor.dtype)) fail("a dtype");
    tensor.shape = wholes();
    const size_t bytes = tensor.view().bytes();
    ++at_;
    if (at_ + bytes > data_.size()) fail("elements");
    tensor.data.resize(bytes);
    if (bytes) std::memcpy(tensor.data.data(), data_.data() + at_, bytes);
    at_ += bytes;
    return tensor;
  }

 private:
  [[noreturn]] void fail(const char* expected) {
    std::fprintf(stderr, "expected %s at byte %zu of the cases\n", expected, at_);
    std::exit(2);
  }

  std::vector<uint8_t> data_;
  size_t at_ = 0;
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_TESTS_NATIVE_RUNTIME_CASE_READER_H_
