// Whether a sensor is well: what befell its newest sample, and whether it was lost.
#ifndef MMEDGE_RUNTIME_STREAM_PRESENCE_H_
#define MMEDGE_RUNTIME_STREAM_PRESENCE_H_

#include "stream/drop_reason.h"
#include "stream/text.h"

namespace mmedge::runtime::stream {

// mmedge/stream/presence.py.
class Presence {
 public:
  // What befell the newest sample if it was bad; empty: it was good.
  Text problem;
  // Whether the content of the newest samples was bad: the sensor is faulty and not only late.
  bool lying = false;
  // Why the newest sample was dropped, for results that use an older one; kNone: it was not.
  DropReason refusal = DropReason::kNone;

  // `required`: the modality has no stand-in. `recover_after`: good samples after which a lost
  // optional one is back.
  Presence(bool required, int64_t recover_after) noexcept
      : required_(required), recover_after_(recover_after) {}

  // Begins as if nothing had come; `new_problem` is why it is absent until something does.
  void begin(const char* new_problem) noexcept {
    problem = new_problem;
    refusal = DropReason::kNone;
    lying = is_lost_ = was_used_ = false;
    good_ = 0;
  }

  void note_good() noexcept {
    problem.clear();
    refusal = DropReason::kNone;
    lying = false;
    ++good_;
  }

  // `is_content`: the problem is about what the sample holds.
  void note_problem(const Text& reason, bool is_content) noexcept {
    problem = reason;
    lying = lying || is_content;
    good_ = 0;
  }

  // Whether a lost sensor is to be used again only later; says how far it is.
  bool is_recovering(Text* how_far) const noexcept {
    if (!is_lost_ || good_ >= recover_after_) return false;
    how_far->add("recovering (").add_whole(good_).add(" of ").add_whole(recover_after_).add(")");
    return true;
  }

  // Notes that a result used the modality (empty reason) or did without it.
  void conclude(const Text& reason) noexcept {
    if (required_) return;
    if (reason.empty()) {
      was_used_ = true;
      is_lost_ = false;
    } else if (was_used_ && !(is_lost_ && is_no_new_loss(reason.view()))) {
      is_lost_ = true;
      good_ = 0;
    }
  }

 private:
  static bool is_no_new_loss(std::string_view reason) noexcept {
    return reason.substr(0, 10) == "recovering" || reason.substr(0, 13) == "encoder_error";
  }

  bool required_;
  int64_t recover_after_;
  bool is_lost_ = false, was_used_ = false;
  int64_t good_ = 0;
};

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_PRESENCE_H_
