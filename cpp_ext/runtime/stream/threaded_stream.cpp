// A stream with threads of its own.
#include "stream/threaded_stream.h"

#include <time.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "clock.h"

namespace mmedge::runtime::stream {
namespace {

// How often the next tick is looked for on a clock of which nothing is known, in seconds.
constexpr double kPoll = 0.005;

}  // namespace

ThreadedStream::ThreadedStream(const Manifest& manifest, StageRunner* runner,
                               const StreamOptions& options, Clock clock,
                               const ThreadSettings& settings, void (*deliver)(void*),
                               void* context)
    : can_sleep_(clock.is_trusted),
      settings_(settings),
      deliver_(deliver),
      context_(context),
      stream_(manifest, runner, options, clock),
      core_(*stream_.core_) {
  check_settings(settings);
  stream_.compute_->share(&mutex_);
  copy_with_memory(core_.make_result(core_.states().size()), &taken_);
  for (const Modality& modality : manifest.modalities) {
    sources_.push_back(std::make_unique<Source>());
    sources_.back()->inputs.resize(modality.inputs.size());
    sources_.back()->sizes.resize(stream_.sizes_.size());
  }
  for (const auto& track : stream_.tracks_) {
    if (!track->has_encoder) continue;
    encoders_.push_back(std::make_unique<Worker>());
    encoders_.back()->role = track->layout().modality->name.c_str();
    encoders_.back()->track = track.get();
    encoders_.back()->work = &ThreadedStream::encode;
  }
  fusion_.role = "fusion";
  fusion_.work = &ThreadedStream::fuse;
  delivery_.role = "results";
  delivery_.work = &ThreadedStream::hand_over;
  const auto start = [this](Worker* worker) {
    worker->stream = this;
    {
      const Lock lock(&mutex_);
      ++starting_;
    }
    try {
      worker->thread.start(run, worker);
    } catch (const Error& error) {
      fail(Text(std::string_view(error.what())));
      const Lock lock(&mutex_);
      --starting_;
    }
  };
  for (const auto& encoder : encoders_) start(encoder.get());
  start(&fusion_);
  if (deliver_ != nullptr) start(&delivery_);
  {
    const Lock lock(&mutex_);
    while (starting_ > 0) started_.wait(&mutex_);
    if (core_.failure.empty()) return;
  }
  for (const auto& encoder : encoders_) encoder->thread.join();
  fusion_.thread.join();
  delivery_.thread.join();
  throw Error(Code::kBackend, std::string(core_.failure.view()));
}

ThreadedStream::~ThreadedStream() {
  stop();
  for (const auto& encoder : encoders_) encoder->thread.join();
  fusion_.thread.join();
  delivery_.thread.join();
  const timespec moment = {0, 50'000};
  while (calls_.load() != 0) nanosleep(&moment, nullptr);
}

void* ThreadedStream::run(void* argument) noexcept {
  Worker* worker = static_cast<Worker*>(argument);
  ThreadedStream* stream = worker->stream;
  Text why;
  if (!apply_settings(stream->settings_, worker->role, &why)) stream->fail(why);
  {
    const Lock lock(&stream->mutex_);
    --stream->starting_;
    stream->started_.notify_all();
    while (!stream->has_begun_ && !stream->core_.closed) stream->started_.wait(&stream->mutex_);
  }
  (stream->*worker->work)(worker);
  return nullptr;
}

void ThreadedStream::begin() noexcept {
  const Lock lock(&mutex_);
  has_begun_ = true;
  started_.notify_all();
}

// Calls of the application.

Code ThreadedStream::push(size_t modality, std::optional<double> t, int64_t* seq) noexcept {
  Source& source = *sources_[modality];
  if (t && !std::isfinite(*t)) {
    return source.error.set(Code::kInput, "a stamp: expected finite seconds, got %g", *t);
  }
  ModalityState* track = stream_.tracks_[modality].get();
  const TensorView* inputs = source.inputs.data();
  Code code = stream_.layouts_[modality].check(inputs, stream_.table_, &stream_.rules_,
                                               source.sizes.data(), &source.error);
  if (code != Code::kOk) return code;
  double stamp = 0, now = 0, ahead = 0;
  DropReason fault;
  Sample* kept = nullptr;
  {
    const Lock lock(&mutex_);
    now = read_clock();
    code = open_code(&source.error);
    if (code != Code::kOk) return code;
    ahead = stream_.time_.ahead;
    // From here on in the stream's own time.
    stamp = t ? *t + stream_.time_.offset : now;
    fault = track->stamp_fault(stamp, now);
    if (fault == DropReason::kNone) {
      kept = track->take_sample();
      if (kept == nullptr) fault = DropReason::kQueueFull;
    }
  }
  bool is_lying = false;
  if (kept != nullptr) {
    // The slow part, in which other modalities need not wait.
    track->fill(kept, inputs, source.sizes.data());
    fault = stream_.checkers_[modality].check(kept);
    is_lying = fault != DropReason::kNone;
  }
  const Lock lock(&mutex_);
  const double later = read_clock();
  if (stream_.time_.ahead != ahead) {
    // The clock was set meanwhile: it is a sample of now, and not of before.
    stamp += stream_.time_.ahead - ahead;
    now = later;
  }
  code = open_code(&source.error);
  if (code == Code::kOk) {
    Sample* sample = kept;
    if (sample == nullptr) sample = track->make_passing(inputs, source.sizes.data());
    sample->seq = track->ledger.take();
    sample->t = stamp;
    sample->arrival = now;
    if (seq != nullptr) *seq = sample->seq;
    core_.push(track, sample, fault, is_lying, later);
    dispatch();
  }
  if (kept != nullptr) --kept->pins;
  return code;
}

Code ThreadedStream::forget(size_t modality, CallError* error) noexcept {
  const Lock gate(&sources_[modality]->gate);
  const Lock lock(&mutex_);
  const double now = read_clock();
  const Code code = open_code(error);
  if (code != Code::kOk) return code;
  stream_.checkers_[modality].forget();
  core_.forget(stream_.tracks_[modality].get(), now);
  dispatch();
  return code;
}

Code ThreadedStream::reset(CallError* error) noexcept {
  for (const auto& source : sources_) source->gate.lock();
  Code code;
  {
    const Lock lock(&mutex_);
    read_clock();
    code = open_code(error);
    if (code == Code::kOk) {
      for (Checker& checker : stream_.checkers_) checker.forget();
      core_.reset();
      dispatch();
    }
  }
  for (const auto& source : sources_) source->gate.unlock();
  return code;
}

Code ThreadedStream::wait_until(double time, bool* is_there, CallError* error) noexcept {
  const Lock lock(&mutex_);
  while (!core_.closed && !core_.has_results() && mmedge::runtime::now() < time) {
    result_there_.wait_until(&mutex_, time);
  }
  *is_there = !core_.closed && core_.has_results();
  return open_code(error);
}

Code ThreadedStream::take(bool latest, const Result** result, CallError* error) noexcept {
  *result = nullptr;
  const Lock lock(&mutex_);
  const double now = read_clock();
  const Code code = open_code(error);
  if (code != Code::kOk) return code;
  const Result* there = core_.take(now, latest);
  if (there == nullptr) return code;
  taken_ = *there;
  *result = &taken_;
  return code;
}

double ThreadedStream::next_time() noexcept {
  const Lock lock(&mutex_);
  return due().value_or(std::numeric_limits<double>::infinity()) - stream_.time_.offset;
}

Code ThreadedStream::check_open(CallError* error) noexcept {
  const Lock lock(&mutex_);
  return open_code(error);
}

void ThreadedStream::stop() noexcept {
  const Lock lock(&mutex_);
  end(Text());
}

void ThreadedStream::fail(const Text& why) noexcept {
  const Lock lock(&mutex_);
  end(why);
}

const Health& ThreadedStream::health() noexcept {
  read_clock();
  return stream_.health();
}

bool ThreadedStream::is_idle() noexcept {
  const Lock lock(&mutex_);
  const double now = read_clock();
  const std::optional<double> next = due();
  if (core_.has_fusion() || fusion_.is_busy || (next && *next <= now)) return false;
  return std::none_of(encoders_.begin(), encoders_.end(), [](const auto& encoder) {
    return encoder->is_busy || encoder->item != nullptr;
  });
}

bool ThreadedStream::is_own_thread() const noexcept {
  return delivery_.thread.is_current() || fusion_.thread.is_current() ||
         std::any_of(encoders_.begin(), encoders_.end(),
                     [](const auto& encoder) { return encoder->thread.is_current(); });
}

// Threads.

void ThreadedStream::encode(Worker* worker) noexcept {
  const Lock lock(&mutex_);
  for (;;) {
    while (worker->item == nullptr && !core_.closed) worker->turn.wait(&mutex_);
    if (core_.closed) return;
    Item* item = worker->item;
    worker->item = nullptr;
    worker->is_busy = true;
    double seconds = 0;
    {
      const Unlock unlock(&mutex_);
      stream_.compute_->encode(worker->track, *item, &seconds);
    }
    worker->is_busy = false;
    if (core_.closed) return;
    core_.encoded(worker->track, item, read_clock());
    dispatch();
  }
}

void ThreadedStream::fuse(Worker* worker) noexcept {
  const Lock lock(&mutex_);
  while (!core_.closed) {
    look();
    const Active* active = core_.fusion();
    if (active == nullptr) {
      if (core_.closed) return;
      alarm_ = core_.alarm();
      const std::optional<double> next = due();
      if (!next) {
        worker->turn.wait(&mutex_);
      } else {
        worker->turn.wait_until(&mutex_,
                                can_sleep_ ? *next : mmedge::runtime::now() + kPoll);
      }
      continue;
    }
    const int64_t serial = core_.serial();
    worker->is_busy = true;
    stream_.compute_->begin_fusion(*active, core_.states());
    Fused& outcome = stream_.fused_;
    double seconds = 0;
    {
      const Unlock unlock(&mutex_);
      stream_.compute_->fuse(&core_.slots, &outcome, &seconds);
    }
    if (outcome.has_loop) take_steps(serial);
    stream_.compute_->end_fusion();
    worker->is_busy = false;
    const double now = read_clock();
    if (is_over(serial)) {
      core_.slots.release(outcome.slot);
    } else {
      core_.fused(outcome, now);
    }
    dispatch();
  }
}

// Runs a loop to its end, or until something ends it between two steps.
void ThreadedStream::take_steps(int64_t serial) noexcept {
  Fused& outcome = stream_.fused_;
  LoopEnd why = LoopEnd::kNone;
  double seconds = 0;
  for (bool more = true; more;) {
    look();
    if (is_over(serial)) return;
    why = core_.loop_end(read_clock());
    if (why != LoopEnd::kNone) break;
    {
      const Unlock unlock(&mutex_);
      stream_.compute_->step(&core_.slots, &outcome, &seconds);
    }
    const double now = read_clock();
    if (is_over(serial)) return;
    core_.stepped(now);
    more = outcome.has_more;
  }
  const Unlock unlock(&mutex_);
  stream_.compute_->end(why, &core_.slots, &outcome, &seconds);
}

void ThreadedStream::hand_over(Worker*) noexcept {
  for (;;) {
    {
      const Lock lock(&mutex_);
      while (!core_.has_results() && !core_.closed) result_there_.wait(&mutex_);
      if (core_.closed) return;
    }
    try {
      deliver_(context_);
    } catch (...) {
      fail("on_result threw an exception, which it must not");
    }
  }
}

// With the mutex held.

double ThreadedStream::read_clock() noexcept {
  const bool was_closed = core_.closed;
  const double now = stream_.read_clock();
  if (core_.closed && !was_closed) wake_all();
  return now;
}

// Whether the trigger of a fusion ended, or was begun anew.
bool ThreadedStream::is_over(int64_t serial) const noexcept {
  return core_.closed || serial != core_.serial();
}

Code ThreadedStream::open_code(CallError* error) const noexcept {
  if (!core_.closed) return Code::kOk;
  if (core_.failure.empty()) {
    return error->set(Code::kBackend, "the stream is closed; make a new one");
  }
  const std::string_view why = core_.failure.view();
  return error->set(Code::kBackend, "the stream failed: %.*s; make a new one",
                    static_cast<int>(why.size()), why.data());
}

void ThreadedStream::end(const Text& why) noexcept {
  if (core_.closed) return;
  core_.failure = why;
  core_.close();
  wake_all();
}

void ThreadedStream::wake_all() noexcept {
  started_.notify_all();
  dispatch();
}

// Hands out all work that there is now, and wakes who has some: each thread waits for its own turn,
// because to wake all of them at each push would cost more than a push.
void ThreadedStream::dispatch() noexcept {
  const bool is_closed = core_.closed;
  for (const auto& encoder : encoders_) {
    if (encoder->item == nullptr && !is_closed) {
      encoder->item = encoder->track->next_job(stream_.time_.last);
    }
    if (encoder->item != nullptr || is_closed) encoder->turn.notify();
  }
  const std::optional<double> alarm = core_.alarm();
  if (core_.has_fusion() || is_closed || (alarm && alarm != alarm_)) fusion_.turn.notify();
  if (core_.has_results() || is_closed) result_there_.notify_all();
}

// Sees to ticks and alarms that are due.
void ThreadedStream::look() noexcept {
  std::optional<Ticker>& ticker = stream_.ticker_;
  const std::optional<double> alarm = core_.alarm();
  if (!ticker && !alarm) return;
  const double now = read_clock();
  if (core_.closed) return;
  double t = 0;
  int64_t missed = 0;
  const bool is_due = ticker && ticker->due(now, &t, &missed);
  if (is_due) core_.tick(t, missed, now);
  const bool rings = core_.alarm() && *core_.alarm() <= now;
  if (rings) core_.wake(now);
  if (is_due || rings) dispatch();
}

std::optional<double> ThreadedStream::due() const noexcept {
  std::optional<double> next = core_.alarm();
  if (stream_.ticker_ && (!next || stream_.ticker_->next() < *next)) {
    next = stream_.ticker_->next();
  }
  return next;
}

}  // namespace mmedge::runtime::stream
