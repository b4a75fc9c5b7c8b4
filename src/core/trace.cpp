#include "core/trace.hpp"

#include <chrono>
#include <utility>

namespace ringscan {
namespace {

thread_local Trace* trace_of_thread = nullptr;
thread_local TraceThread this_thread = TraceThread::kCompute;
thread_local TraceSpan* innermost = nullptr;

}  // namespace

std::int64_t Trace::now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

Trace* Trace::of_this_thread() {
  return trace_of_thread;
}

bool Trace::has_room() {
  if (events_.size() + tile_samples_.size() < most_events_) return true;
  ++dropped_;
  return false;
}

void Trace::record(TraceEvent event) {
  const std::lock_guard lock(mutex_);
  if (has_room()) events_.push_back(std::move(event));
}

void Trace::count_tiles(std::int64_t computed, std::int64_t skipped) {
  const std::lock_guard lock(mutex_);
  tiles_.computed += computed;
  tiles_.skipped += skipped;
  tiles_.time_ns = now_ns();
  if (has_room()) tile_samples_.push_back(tiles_);
}

TraceBinding::TraceBinding(Trace* trace, TraceThread thread)
    : before_(std::exchange(trace_of_thread, trace)), thread_before_(std::exchange(this_thread, thread)) {}

TraceBinding::~TraceBinding() {
  trace_of_thread = before_;
  this_thread = thread_before_;
}

TraceSpan::TraceSpan(SpanKind kind, std::string_view label) : trace_(trace_of_thread) {
  if (trace_ == nullptr) return;
  event_.label = label;
  open(kind, Trace::now_ns());
}

TraceSpan::TraceSpan(SpanKind kind, std::int64_t begin_ns) : trace_(trace_of_thread) {
  if (trace_ != nullptr) open(kind, begin_ns);
}

void TraceSpan::open(SpanKind kind, std::int64_t begin_ns) {
  event_.kind = kind;
  event_.thread = this_thread;
  event_.begin_ns = begin_ns;
  outer_ = std::exchange(innermost, this);
}

TraceSpan::~TraceSpan() {
  if (trace_ != nullptr) end(Trace::now_ns());
}

void TraceSpan::end(std::int64_t end_ns) {
  if (trace_ == nullptr) return;
  event_.end_ns = end_ns;
  innermost = outer_;
  std::exchange(trace_, nullptr)->record(std::move(event_));
}

void TraceSpan::note_polling(std::int64_t elapsed_ns) {
  if (innermost != nullptr) innermost->event_.polled_ns += elapsed_ns;
}

}  // namespace ringscan
