/* Texts for and from a bundle: the token ids of a text, and the text of token ids.
 *
 *   mmedge_tokenizer* tokenizer;  mmedge_tokenizer_open(pipeline, "text", &tokenizer)
 *   mmedge_tensor inputs[3];      mmedge_tokenizer_encode(tokenizer, "go left", 7, inputs, &count, NULL)
 *                                 mmedge_pipeline_run(pipeline, inputs, count, outputs, 1)
 *   mmedge_tokenizer_close(tokenizer)
 *
 * The rules are those of docs/reference/bundle.md, "Text". Texts are UTF-8 and need not end with a 0
 * byte. Threads, errors and memory: as of mmedge/mmedge.h; what a real-time function gives lies in the
 * handle until the next call of that handle. */
#ifndef MMEDGE_TEXT_H_
#define MMEDGE_TEXT_H_

#include "mmedge/mmedge.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Tokenizers ------------------------------------------------------------------------------ */

/* A tokenizer of a bundle, with memory for one thread. */
typedef struct mmedge_tokenizer mmedge_tokenizer;

/* Reads the tokenizer of a modality, by its name or by that of its input of ids; of NULL the one that
 * makes text of a loop's tokens. It goes on when the pipeline is closed. Memory is set aside for texts
 * of 1,024 characters, and for as many tokens as the loop gives or 1,024.
 * MMEDGE_INPUT_ERROR: nothing of that name takes a text, or the loop gives none. MMEDGE_BUNDLE_ERROR:
 * the file is no tokenizer, or has what libmmedge does not know; the message names it. */
MMEDGE_API mmedge_status mmedge_tokenizer_open(const mmedge_pipeline* pipeline, const char* name,
                                               mmedge_tokenizer** tokenizer);

/* Another handle on the same tokenizer, for another thread, with as much memory. */
MMEDGE_API mmedge_status mmedge_tokenizer_clone(const mmedge_tokenizer* tokenizer,
                                                mmedge_tokenizer** clone);

/* Frees it. NULL is allowed. */
MMEDGE_API void mmedge_tokenizer_close(mmedge_tokenizer* tokenizer);

/* Sets memory aside for texts of so many characters (no text has more than 8,192), and for the text of
 * so many tokens. What was set aside before stays. */
MMEDGE_API mmedge_status mmedge_tokenizer_reserve(mmedge_tokenizer* tokenizer, int64_t characters,
                                                  int64_t tokens);

/* Real-time. Ids, and the mask where the modality has one, of a text of `bytes` bytes: `tensors` has
 * room for two and `*count` says how many there are, [1, tokens] each, named as the network's inputs.
 * They go to mmedge_pipeline_run() or mmedge_loop_begin() as they are. `is_cut`, which may be NULL:
 * whether the tokenizer has cut the text, as its file says.
 * MMEDGE_INPUT_ERROR: the text is no UTF-8, is too long or has no tokens. MMEDGE_NOT_WARM: it is longer
 * than memory was set aside for. */
MMEDGE_API mmedge_status mmedge_tokenizer_encode(mmedge_tokenizer* tokenizer, const char* text,
                                                 size_t bytes, mmedge_tensor* tensors,
                                                 int32_t* count, int32_t* is_cut);

/* Real-time. The text of tokens, of `*bytes` bytes; it does not end with a 0 byte. Special tokens, and
 * numbers that are none, are left out. MMEDGE_NOT_WARM: they are more than memory was set aside for. */
MMEDGE_API mmedge_status mmedge_tokenizer_decode(mmedge_tokenizer* tokenizer, const int64_t* tokens,
                                                 int64_t count, const char** text, size_t* bytes);

/* ---- Text as it comes ------------------------------------------------------------------------ */

/* The text of one row of tokens, as they come. A token may end within a character: the text ends before
 * one that is not complete, and goes on when it is. The pieces together are the text of all tokens. */
typedef struct mmedge_text_stream mmedge_text_stream;

/* Begins a row. It goes on when the tokenizer is closed. */
MMEDGE_API mmedge_status mmedge_text_stream_create(const mmedge_tokenizer* tokenizer,
                                                   mmedge_text_stream** stream);

/* Frees it. NULL is allowed. */
MMEDGE_API void mmedge_text_stream_close(mmedge_text_stream* stream);

/* Real-time. Begins another row. */
MMEDGE_API void mmedge_text_stream_reset(mmedge_text_stream* stream);

/* Real-time. What a token adds to the text: `*bytes` bytes, often none. With `is_last` also what is not
 * complete. Of a step of a loop, give it the token of a row that is active, with `is_last` where the step
 * is `done`; a row that ends before the others ends with mmedge_text_stream_end(). */
MMEDGE_API mmedge_status mmedge_text_stream_add(mmedge_text_stream* stream, int64_t token,
                                                int32_t is_last, const char** text, size_t* bytes);

/* Real-time. What is not complete: no token follows. */
MMEDGE_API mmedge_status mmedge_text_stream_end(mmedge_text_stream* stream, const char** text,
                                                size_t* bytes);

#ifdef __cplusplus
}
#endif

#endif /* MMEDGE_TEXT_H_ */
