// The backend OpenVINO on CPUs: mmedge/backends/openvino/session.py.
//
// A session compiles one form of a graph for the shapes of golden samples, up to kSpecialised of them,
// when it is loaded, and one for any other shapes at the first run that needs it.
#ifndef MMEDGE_RUNTIME_BACKENDS_OPENVINO_SESSION_H_
#define MMEDGE_RUNTIME_BACKENDS_OPENVINO_SESSION_H_

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../backend.h"
#include "compiled.h"

namespace mmedge::runtime::openvino {

// Most sets of input shapes that a session is compiled for by themselves.
constexpr size_t kSpecialised = 4;

// What slots need of the session that they belong to.
class Forms {
 public:
  Forms(Library& library, std::string where, int threads)
      : library_(library), where_(std::move(where)), threads_(threads) {}

  const Library& library() const noexcept { return library_; }
  const std::string& where() const noexcept { return where_; }
  const std::vector<std::unique_ptr<Compiled>>& special() const noexcept { return special_; }
  // That for any shapes; null before it was needed.
  const Compiled* general() const noexcept { return general_.load(std::memory_order_acquire); }
  // Compiles it at the first call. Throws Error(kBackend).
  const Compiled& make_general();

 private:
  friend class OpenVinoSession;

  Library& library_;
  const std::string where_;
  const int threads_;
  const std::vector<TensorSpec>* inputs_ = nullptr;
  const std::vector<TensorSpec>* outputs_ = nullptr;
  Owner<Model> model_;  // as read, of any shapes
  std::vector<std::unique_ptr<Compiled>> special_;
  std::unique_ptr<Compiled> owned_general_;
  std::atomic<const Compiled*> general_{nullptr};
  std::mutex lock_;  // of general_
};

// The backend "openvino". The library is loaded with its first use; `location` is as for
// Library::load.
Backend make_backend(std::string location);

}  // namespace mmedge::runtime::openvino

#endif  // MMEDGE_RUNTIME_BACKENDS_OPENVINO_SESSION_H_
