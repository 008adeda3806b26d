/** A token that is found in a text as it is written, before the rest is tokenized. */
export interface Special {
  readonly id: number
  readonly text: string
  /** Blanks before it, or behind it, belong to it. */
  readonly takesLeft: boolean
  readonly takesRight: boolean
}

/** In the order in which they are looked for: a longer one first, wherever it stands. */
export function inOrder(specials: readonly Special[]): Special[] {
  const bytes = ({ text }: Special) => Buffer.byteLength(text)
  return specials
    .filter(({ text }) => text !== '')
    .sort((a, b) => bytes(b) - bytes(a) || a.id - b.id)
}

/**
 * Cuts a text at its special tokens, as llama.cpp does, but in a time that grows with the text alone:
 * llama.cpp counts all fragments so far for each token that it finds.
 *
 * @param specials as `inOrder` gives them
 * @returns token ids, and the text between them
 */
export function partition(text: string, specials: readonly Special[]): (string | number)[] {
  let fragments: (string | number)[] = text === '' ? [] : [text]
  for (const special of specials) {
    if (!text.includes(special.text)) continue
    const next: (string | number)[] = []
    for (const fragment of fragments) {
      if (typeof fragment === 'number') next.push(fragment)
      else cut(fragment, special, next)
    }
    fragments = next
  }
  return fragments
}

function cut(text: string, special: Special, into: (string | number)[]): void {
  let from = 0
  for (let at = text.indexOf(special.text); at >= 0; at = text.indexOf(special.text, from)) {
    let end = at
    if (special.takesLeft) while (end > from && isBlank(text.charCodeAt(end - 1))) end--
    if (end > from) into.push(text.slice(from, end))
    into.push(special.id)
    from = at + special.text.length
    if (special.takesRight) while (isBlank(text.charCodeAt(from))) from++
  }
  if (from < text.length) into.push(text.slice(from))
}

/** As `isspace` of C has it. */
function isBlank(unit: number): boolean {
  return unit === 32 || (unit >= 9 && unit <= 13)
}
