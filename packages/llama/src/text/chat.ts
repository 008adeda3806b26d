/** A conversation as the text of a prompt, by the template that comes with the model. */
import { Template } from '@huggingface/jinja'
import { KvxError } from '@kvx/contract'

export interface ChatMessage {
  readonly role: 'system' | 'user' | 'assistant' | 'tool'
  readonly content: string
  readonly name?: string
}

export class ChatTemplate {
  readonly #template: Template
  readonly #tokens: { readonly bos_token: string; readonly eos_token: string }

  /**
   * @param source Jinja, as `tokenizer.chat_template` of a GGUF file has it
   * @param tokens the texts of the tokens with which a text begins and ends
   * @throws KvxError `ERR_KVX_MODEL` when it is no template
   */
  constructor(source: string, tokens: { readonly bos: string; readonly eos: string }) {
    try {
      this.#template = new Template(source)
    } catch (cause) {
      throw new KvxError(
        'ERR_KVX_MODEL',
        `The chat template of the model cannot be read: ${reasonOf(cause)}. Send a prompt to /v1/completions instead.`,
        { cause },
      )
    }
    this.#tokens = { bos_token: tokens.bos, eos_token: tokens.eos }
  }

  /**
   * @param options whether the beginning of an answer follows the messages
   * @throws KvxError `ERR_KVX_INVALID_ARGUMENT` when the template refuses the messages
   */
  render(messages: readonly ChatMessage[], { answer }: { readonly answer: boolean }): string {
    try {
      return this.#template.render({
        messages: messages.map((message) => ({ ...message })),
        add_generation_prompt: answer,
        ...this.#tokens,
      })
    } catch (cause) {
      throw new KvxError(
        'ERR_KVX_INVALID_ARGUMENT',
        `The model's chat template does not take these messages: ${reasonOf(cause)}.`,
        { cause, phase: 'open' },
      )
    }
  }
}

function reasonOf(cause: unknown): string {
  const text = cause instanceof Error ? cause.message : String(cause)
  return text.replace(/\.$/, '')
}
