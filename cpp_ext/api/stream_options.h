// Options of a stream, from the structures of mmedge/stream.h to those of the runtime.
#ifndef MMEDGE_API_STREAM_OPTIONS_H_
#define MMEDGE_API_STREAM_OPTIONS_H_

#include <string>

#include "mmedge/stream.h"
#include "stream/options.h"
#include "stream/thread_settings.h"

namespace mmedge::api {

// Each throws Error(kInput): a structure of another size, or a number that none may be. What depends
// on the bundle is checked by who takes them.
mmedge::runtime::stream::StreamOptions read_stream_options(const mmedge_stream_options& from,
                                                           const std::string& plan);
// NULL: what the bundle says.
mmedge::runtime::stream::LoopOptions read_loop_options(const mmedge_loop_options* from);
mmedge::runtime::stream::ThreadSettings read_threads(const mmedge_stream_threads& from);

}  // namespace mmedge::api

#endif  // MMEDGE_API_STREAM_OPTIONS_H_
