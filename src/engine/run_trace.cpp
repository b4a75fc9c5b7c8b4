#include "engine/run_trace.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/error.hpp"
#include "io/output_path.hpp"

namespace ringscan {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kPartBytes = std::size_t{1} << 20;

// Threads of the timeline, in the order in which they are shown. Transfers overlap: each side has as many lanes as
// are in flight at once.
constexpr int kComputeTrack = 1;
constexpr int kIoTrack = 2;
constexpr int kSendTrack = 100;
constexpr int kReceiveTrack = 200;

const char* name_of(SpanKind kind) {
  constexpr const char* kNames[] = {"group", "compute", "finish", "staging", "wait",
                                    "read",  "write",   "send",   "receive"};
  return kNames[static_cast<int>(kind)];
}

int track_of(const TraceEvent& span) {
  switch (span.kind) {
    case SpanKind::kRead:
    case SpanKind::kWrite:
      return kIoTrack;
    case SpanKind::kSend:
      return kSendTrack;
    case SpanKind::kReceive:
      return kReceiveTrack;
    default:
      return span.thread == TraceThread::kIo ? kIoTrack : kComputeTrack;
  }
}

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

/// The lane that has been free longest of those numbered from 0; a new one where all are taken.
class Lanes {
 public:
  int take(std::int64_t begin_ns, std::int64_t end_ns) {
    auto lane = std::find_if(free_from_ns_.begin(), free_from_ns_.end(),
                             [&](std::int64_t free_ns) { return free_ns <= begin_ns; });
    if (lane == free_from_ns_.end()) lane = free_from_ns_.insert(lane, 0);
    *lane = end_ns;
    return static_cast<int>(lane - free_from_ns_.begin());
  }
  int count() const { return static_cast<int>(free_from_ns_.size()); }

 private:
  std::vector<std::int64_t> free_from_ns_;
};

/// Turns one rank's trace into text, in parts, each event behind a comma.
class RankText {
 public:
  RankText(int rank, std::function<double(std::int64_t)> time_us, std::function<void(const std::string&)> give)
      : rank_(rank), time_us_(std::move(time_us)), give_(std::move(give)) {}

  void write(const Trace& trace, const ClockReading& begin, const ClockReading& end) {
    add({{"name", "process_name"},
         {"ph", "M"},
         {"pid", rank_},
         {"args", {{"name", "rank " + std::to_string(rank_) + " on " + host_name()}}}});
    add({{"name", "process_sort_index"}, {"ph", "M"}, {"pid", rank_}, {"args", {{"sort_index", rank_}}}});
    add({{"name", "rank"},
         {"ph", "M"},
         {"pid", rank_},
         {"args",
          {{"dropped_events", trace.dropped()},
           {"clock_error_us", static_cast<double>(std::max(begin.error_ns, end.error_ns)) * 1e-3}}}});
    add_spans(trace.events());
    for (const TileSample& sample : trace.tile_samples()) {
      add({{"name", "tiles"},
           {"ph", "C"},
           {"pid", rank_},
           {"ts", time_us_(sample.time_ns)},
           {"args", {{"computed", sample.computed}, {"skipped", sample.skipped}}}});
    }
    if (!text_.empty()) give_(text_);
  }

 private:
  void add_spans(const std::vector<TraceEvent>& events) {
    std::vector<const TraceEvent*> spans;
    for (const TraceEvent& event : events) spans.push_back(&event);
    // The outer of nested spans first.
    std::stable_sort(spans.begin(), spans.end(), [](const TraceEvent* a, const TraceEvent* b) {
      return a->begin_ns != b->begin_ns ? a->begin_ns < b->begin_ns : a->end_ns > b->end_ns;
    });
    Lanes sends, receives;
    for (const TraceEvent* span : spans) {
      int track = track_of(*span);
      if (track == kSendTrack) track += sends.take(span->begin_ns, span->end_ns);
      if (track == kReceiveTrack) track += receives.take(span->begin_ns, span->end_ns);
      add_span(*span, track);
    }
    name_track(kComputeTrack, "compute");
    name_track(kIoTrack, "io");
    for (int lane = 0; lane < sends.count(); ++lane) name_track(kSendTrack + lane, "transfers: sends");
    for (int lane = 0; lane < receives.count(); ++lane) name_track(kReceiveTrack + lane, "transfers: receives");
  }

  void add_span(const TraceEvent& span, int track) {
    std::string name = span.kind == SpanKind::kGroup ? span.label : name_of(span.kind);
    Json args = Json::object();
    if (span.kind != SpanKind::kGroup && !span.label.empty()) name += " " + span.label;
    if (span.peer >= 0) {
      name += (span.kind == SpanKind::kSend ? " to rank " : " from rank ") + std::to_string(span.peer);
      args["bytes"] = span.bytes;
    }
    if (span.polled_ns > 0) args["moving_transfers_us"] = static_cast<double>(span.polled_ns) * 1e-3;
    const double begin_us = time_us_(span.begin_ns);
    add({{"name", name},
         {"cat", name_of(span.kind)},
         {"ph", "X"},
         {"pid", rank_},
         {"tid", track},
         {"ts", begin_us},
         {"dur", time_us_(span.end_ns) - begin_us},
         {"args", args}});
  }

  void name_track(int track, const std::string& name) {
    const Json id{{"ph", "M"}, {"pid", rank_}, {"tid", track}};
    Json named = id, sorted = id;
    named["name"] = "thread_name";
    named["args"] = {{"name", name}};
    sorted["name"] = "thread_sort_index";
    sorted["args"] = {{"sort_index", track}};
    add(named);
    add(sorted);
  }

  void add(const Json& event) {
    text_ += ",\n" + event.dump();
    if (text_.size() < kPartBytes) return;
    give_(text_);
    text_.clear();
  }

  int rank_;
  std::function<double(std::int64_t)> time_us_;
  std::function<void(const std::string&)> give_;
  std::string text_;
};

void send_part(Transport& transport, const std::string& text) {
  const auto size = static_cast<std::int64_t>(text.size());
  for (const auto bytes : {std::as_bytes(std::span(&size, 1)), std::as_bytes(std::span(text))}) {
    Transfer transfer;
    transfer.to_rank = 0;
    transfer.send = bytes;
    transport.exchange(transfer).wait();
  }
}

std::string receive_part(Transport& transport, int rank) {
  const auto receive = [&](std::span<std::byte> bytes) {
    Transfer transfer;
    transfer.from_rank = rank;
    transfer.receive = bytes;
    transport.exchange(transfer).wait();
  };
  std::int64_t size = 0;
  receive(std::as_writable_bytes(std::span(&size, 1)));
  std::string text(static_cast<std::size_t>(size), '\0');
  receive(std::as_writable_bytes(std::span(text)));
  return text;
}

}  // namespace

RunTrace::RunTrace(Transport& transport, std::size_t most_events)
    : plain_(transport),
      trace_(most_events),
      traced_(transport, trace_),
      begin_(read_clock_offset(transport)),
      binding_(&trace_) {}

void RunTrace::write(const std::string& path) {
  const TraceBinding unbound(nullptr);
  const ClockReading end = read_clock_offset(plain_);
  std::string origin = std::to_string(begin_.local_ns);
  plain_.broadcast(origin, 0);
  const std::int64_t origin_ns = std::stoll(origin);
  const auto time_us = [&](std::int64_t local_ns) {
    return static_cast<double>(to_root_clock(local_ns, begin_, end) - origin_ns) * 1e-3;
  };
  const bool is_root = plain_.rank() == 0;
  const std::string partial = is_root ? partial_path(path) : "";
  std::ofstream out;
  // A stream that fails keeps quiet until the end: the other ranks' parts have to be taken whatever becomes of it.
  const auto give = [&](const std::string& text) { is_root ? void(out << text) : send_part(plain_, text); };
  if (is_root) {
    out.open(partial, std::ios::binary | std::ios::trunc);
    out << "{\"otherData\":{\"program\":\"ringscan " RINGSCAN_VERSION
           "\"},\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n"
        << Json{{"name", "trace"}, {"ph", "M"}, {"pid", 0}, {"args", {{"ranks", plain_.world_size()}}}}.dump();
  }
  RankText(plain_.rank(), time_us, give).write(trace_, begin_, end);
  if (!is_root) send_part(plain_, "");  // the end
  for (int rank = 1; is_root && rank < plain_.world_size(); ++rank) {
    for (std::string part = receive_part(plain_, rank); !part.empty(); part = receive_part(plain_, rank)) out << part;
  }
  run_collectively(plain_, [&] {
    if (!is_root) return;
    out << "\n]}\n";
    out.close();
    if (out && std::rename(partial.c_str(), path.c_str()) == 0) return;
    const std::string reason = std::strerror(errno);
    std::remove(partial.c_str());
    throw failure(path + ": cannot be written: " + reason);
  });
}

}  // namespace ringscan
