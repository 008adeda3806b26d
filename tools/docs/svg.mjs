/** Pictures of boxes with words in them, as SVG: readable on light and dark pages. */

/** Of one kind of thing each, told apart also by the words in the boxes. */
export const colours = [
  ...['#bfdbfe', '#fde68a', '#bbf7d0', '#fecaca', '#ddd6fe', '#fed7aa', '#a5f3fc', '#fbcfe8'],
]

const escaped = (text) => text.replace(/[&<>]/g, (one) => `&#${one.charCodeAt(0)};`)

/** @param items in the order in which they are painted; @param size of the whole */
export function picture({ width, height }, title, items) {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" font-family="system-ui, sans-serif" font-size="12">`,
    `<title>${escaped(title)}</title>`,
    `<rect width="${width}" height="${height}" rx="6" fill="#ffffff"/>`,
    ...items,
    '</svg>',
    '',
  ].join('\n')
}

/** With lines of text in its middle. */
export function box({ x, y, width, height, fill, lines = [] }) {
  const first = y + height / 2 + 4 - (lines.length - 1) * 7
  return [
    `<rect x="${x}" y="${y}" width="${width}" height="${height}" fill="${fill}" stroke="#334155" stroke-width="0.75"/>`,
    ...lines.map((line, i) =>
      words({ x: x + width / 2, y: first + i * 14, text: line, anchor: 'middle' }),
    ),
  ].join('\n')
}

export function words({ x, y, text, anchor = 'start', weight = 'normal', colour = '#0f172a' }) {
  return `<text x="${x}" y="${y}" text-anchor="${anchor}" font-weight="${weight}" fill="${colour}">${escaped(text)}</text>`
}

/** From one point straight down to another. */
export function line({ from, to }) {
  return `<line x1="${from.x}" y1="${from.y}" x2="${to.x}" y2="${to.y}" stroke="#64748b" stroke-width="1"/>`
}
