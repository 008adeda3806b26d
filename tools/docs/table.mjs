/** A Markdown table. @param rows lists of cells, each a string */
export function table(head, rows) {
  const line = (cells) => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n')
}

export const code = (text) => `\`${text}\``

/** `items` as code, separated by commas; a dash for none. */
export const codes = (items) => items.map(code).join(', ') || '–'
