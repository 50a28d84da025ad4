// The time of a stream, without its source's jumps.
#include "stream/stream_clock.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "clock.h"
#include "error.h"

namespace mmedge::runtime::stream {
namespace {

// Seconds by which a clock may go backward before it was set back; below, time holds still.
constexpr double kBackward = 0.1;
// Seconds by which a clock may run ahead of real time, and how many times as fast it may run (a
// simulator's does), before it was set forward.
constexpr double kForward = 1.0, kFastest = 20.0;
// Real seconds for which a clock may give nothing of use.
constexpr double kPatience = 1.0;

}  // namespace

StreamClock::StreamClock(const Clock& clock, double start) : last(start), clock_(clock) {
  if (is_simulated()) {
    clock_.is_trusted = true;
  } else {
    last = read_source();
  }
  if (!std::isfinite(last)) {
    throw Error(Code::kInput,
                "the clock's first reading: expected finite seconds, got " + std::to_string(last));
  }
  real_ = read_real();
}

double StreamClock::read_real() const noexcept {
  return clock_.real == nullptr ? runtime::now() : clock_.real(clock_.context);
}

bool StreamClock::fits(double reading, double real) const noexcept {
  const double step = reading + offset - last;
  return -kBackward <= step && step <= kForward + kFastest * (real - real_);
}

ClockEvent StreamClock::read(Text* failure) noexcept {
  if (is_simulated()) return ClockEvent::kTime;
  if (clock_.is_trusted) {
    last = std::max(last, read_source());
    return ClockEvent::kTime;
  }
  const double real = read_real();
  const auto number = [](double reading) {
    return std::isfinite(reading) ? reading : std::numeric_limits<double>::infinity();
  };
  double reading = number(read_source());
  ClockEvent event = ClockEvent::kTime;
  if (!fits(reading, real)) {
    const double again = number(read_source());
    if (std::abs(again - reading) <= kForward && !fits(again, real)) {
      follow(again, real);
      event = ClockEvent::kJump;
    } else {
      ++glitches;
      if (!fits(again, real)) {
        if (!useless_since_) useless_since_ = real;
        if (real - *useless_since_ <= kPatience) return ClockEvent::kTime;
        failure->add("the stream's clock has given nothing of use for ")
            .add_number(kPatience)
            .add(" s; last ")
            .add_number(again);
        return ClockEvent::kFailure;
      }
    }
    reading = again;
  }
  real_ = real;
  useless_since_.reset();
  last = std::max(last, reading + offset);
  return event;
}

// The source says twice that it was set.
void StreamClock::follow(double reading, double real) noexcept {
  ++jumps;
  const double elapsed = real - real_, step = reading + offset - last;
  if (step > 0.0) {
    jump = step - elapsed;
    ahead += jump;
  } else {
    jump = 0;
    offset += elapsed - step;
  }
}

}  // namespace mmedge::runtime::stream
