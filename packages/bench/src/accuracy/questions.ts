/** Questions with one right answer each, that a small model can be asked: what an engine breaks shows in their number. */

export interface Question {
  readonly text: string
  /** The first line of the answer, without spaces around it. */
  readonly answer: string
}

const shown = [
  ['What is the opposite of hot?', 'cold'],
  ['What is 2 plus 2?', '4'],
  ['Which animal says meow?', 'cat'],
] as const

const asked = [
  ['What is the capital of France?', 'Paris'],
  ['What is the capital of Italy?', 'Rome'],
  ['What is the capital of Japan?', 'Tokyo'],
  ['What is the capital of Germany?', 'Berlin'],
  ['What is the capital of Spain?', 'Madrid'],
  ['What is the capital of Egypt?', 'Cairo'],
  ['What is the opposite of big?', 'small'],
  ['What is the opposite of up?', 'down'],
  ['What is the opposite of left?', 'right'],
  ['What is the opposite of day?', 'night'],
  ['What is the opposite of open?', 'closed'],
  ['Which animal says woof?', 'dog'],
  ['Which animal says moo?', 'cow'],
  ['What is 1 plus 1?', '2'],
  ['What is 3 plus 4?', '7'],
  ['What is 10 minus 5?', '5'],
  ['How many days has a week?', '7'],
  ['How many legs has a spider?', '8'],
  ['What colour is the sky on a clear day?', 'blue'],
  ['What colour is grass?', 'green'],
  ['What colour is snow?', 'white'],
  ['What is frozen water called?', 'ice'],
  ['Which planet do we live on?', 'Earth'],
  ['Which star do we see by day?', 'the Sun'],
] as const

const pair = (question: string, answer: string): string => `Question: ${question}\nAnswer:${answer}`

const beginning = shown.map(([question, answer]) => pair(question, ` ${answer}`)).join('\n\n')

export const questions: readonly Question[] = asked.map(([question, answer]) => ({
  text: `${beginning}\n\n${pair(question, '')}`,
  answer,
}))

/** Exactly, but for capitals and a full stop at the end. */
export function isRight({ answer }: Question, text: string): boolean {
  const [line = ''] = text.trim().split('\n')
  return line.trim().replace(/\.$/, '').toLowerCase() === answer.toLowerCase()
}
