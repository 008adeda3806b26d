/** The demo model's tokenizer in the form that Hugging Face's libraries read, made of what its GGUF file holds. */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { readGgufFileInfo } from 'node-llama-cpp'

/** GGML's kind of a token that is written as it is, such as `<|im_start|>`. */
const control = 3

/** Writes it into `folder`. Of a byte-level BPE whose digits stand alone, which llama.cpp calls `smollm`. */
export async function writeTokenizer(model: string, folder: string): Promise<void> {
  const { metadata } = await readGgufFileInfo(model)
  const { pre, tokens, merges, eos_token_id: eos } = metadata.tokenizer.ggml
  const types: readonly number[] = metadata.tokenizer.ggml.token_type
  if (pre !== 'smollm' || merges === undefined) {
    throw new Error(`${model} has a tokenizer of the kind ${String(pre)}, not smollm.`)
  }
  const special = tokens.flatMap((content, id) =>
    types[id] === control
      ? [
          {
            ...{ id, content, special: true, normalized: false },
            ...{ single_word: false, lstrip: false, rstrip: false },
          },
        ]
      : [],
  )
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true }
  const tokenizer = {
    version: '1.0',
    added_tokens: special,
    normalizer: null,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Digits', individual_digits: true },
        { ...byteLevel, use_regex: true },
      ],
    },
    post_processor: null,
    decoder: { ...byteLevel, use_regex: true },
    model: {
      type: 'BPE',
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: merges.map((merge) => merge.split(' ')),
    },
  }
  const config = {
    tokenizer_class: 'PreTrainedTokenizerFast',
    eos_token: tokens[eos ?? -1],
    clean_up_tokenization_spaces: false,
  }
  await mkdir(folder, { recursive: true })
  await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(tokenizer))
  await writeFile(join(folder, 'tokenizer_config.json'), JSON.stringify(config))
}
