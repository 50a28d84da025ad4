// A RunSlot of an engine that reads inputs where they lie and has a place of its own for outputs.
#ifndef MMEDGE_RUNTIME_BACKENDS_BUFFERED_SLOT_H_
#define MMEDGE_RUNTIME_BACKENDS_BUFFERED_SLOT_H_

#include <cstdarg>
#include <string>
#include <vector>

#include "backend.h"
#include "output_pool.h"

namespace mmedge::runtime {

// Keeps what a RunSlot promises; an engine adds how it takes inputs, runs, and shows outputs. What
// is handed on is copied, to memory that is used again.
class BufferedSlot : public RunSlot {
 public:
  // All of them are the session's, and outlive the slot. `engine` is its name in messages.
  BufferedSlot(const std::string& where, const char* engine, const std::vector<TensorSpec>& inputs,
               const std::vector<TensorSpec>& outputs);

  Code set_input(size_t index, const TensorView& tensor) noexcept final;
  Code set_input(size_t index, const Value& value) noexcept final;
  Code feed_back(size_t output, size_t input) noexcept final;
  Code set_output(size_t index, const TensorView& memory) noexcept final;
  void reset_output(size_t index) noexcept final;
  Code run() noexcept final;
  const TensorView& output(size_t index) const noexcept final;
  Value take_output(size_t index) noexcept final;
  const TensorView& input(size_t index) const noexcept final;
  Value take_input(size_t index) noexcept final;
  Code make_tensor(const TensorView& shape, Value* out) noexcept final;
  Code copy_input(size_t index, Value* out) noexcept final;
  const char* message() const noexcept final { return message_; }

 protected:
  struct Input {
    TensorView view;
    bool set = false;
    Value held;  // what feed_back left
  };
  struct Output {
    TensorView view;  // of the last run; without data where there is none
    bool made = false;
    bool has_memory = false;
    TensorView memory;  // of the caller
  };

  // The engine's part. Take an input in later runs; after another code than kOk the one before is
  // taken.
  virtual Code bind(size_t index, const TensorView& tensor) noexcept = 0;
  virtual Code compute() noexcept = 0;
  // Where an output lies after compute().
  virtual Code read(size_t index, TensorView* view) noexcept = 0;

  Code fail(Code code, const char* format, ...) noexcept __attribute__((format(printf, 3, 4)));

  const std::string& where_;
  const char* const engine_;
  const std::vector<TensorSpec>& input_specs_;
  const std::vector<TensorSpec>& output_specs_;
  std::vector<Input> inputs_;
  std::vector<Output> outputs_;

 private:
  bool fits(const TensorSpec& spec, const char* kind, const TensorView& tensor) noexcept;
  Code read_output(size_t index) noexcept;
  Code out_of_memory() noexcept;

  OutputPool pool_;
  char message_[1024] = {};
};

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BACKENDS_BUFFERED_SLOT_H_
