/** Reads a Dockerfile as far as those in docker/ go: stages, each with its instructions in order. */

/** @returns stages `{ from, name, steps }`, a step being `{ instruction, text }` */
export function stagesOf(text) {
  const lines = text.split('\n').filter((line) => !/^\s*#/.test(line))
  const whole = lines.join('\n').replace(/\\\n/g, ' ')
  const stages = []
  const before = []
  for (const line of whole.split('\n').filter((one) => one.trim() !== '')) {
    const [, instruction, rest] = /^(\w+)\s+(.*)$/.exec(line)
    if (instruction === 'FROM') {
      const [, from, name] = /^(\S+)(?: AS (\S+))?$/.exec(rest)
      stages.push({ from, name, steps: [] })
    } else {
      const steps = stages.at(-1)?.steps ?? before
      steps.push({ instruction, text: rest.trim() })
    }
  }
  return { before, stages }
}

/** `$NAME` and `${NAME}` as in ARG and ENV. */
export const filled = (text, values) =>
  text.replace(/\$\{?(\w+)\}?/g, (_, name) => values[name] ?? '')

/** `A=b C="d e"` as pairs. */
export const pairsOf = (text) =>
  [...text.matchAll(/(\w+)=("[^"]*"|\S*)/g)].map(([, name, value]) => [
    name,
    value.replace(/^"|"$/g, ''),
  ])
