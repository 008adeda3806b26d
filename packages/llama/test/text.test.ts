import fc from 'fast-check'
import { expect, test } from 'vitest'
import { StreamingDetokenizer } from '../src/text/detokenizer.ts'
import { StopMatcher } from '../src/text/stop.ts'

/** A tokenizer with one token per byte. */
const ofByte = (token: number): Uint8Array => Uint8Array.of(token)

function stream(tokens: Iterable<number>): string[] {
  const detokenizer = new StreamingDetokenizer(ofByte, false)
  const pieces = [...tokens].map((token) => detokenizer.push(token))
  return [...pieces, detokenizer.flush()]
}

test('a character that is spread over tokens comes with its last token', () => {
  expect(stream(Buffer.from('é€😀x'))).toEqual(['', 'é', '', '', '€', '', '', '', '😀', 'x', ''])
})

test('an incomplete character at the end is given out by flush', () => {
  expect(stream(Buffer.from('a😀').subarray(0, 3))).toEqual(['a', '', '', '\ufffd'])
})

test('the pieces of any text are the text', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 30 }), (text) => {
      const whole = Buffer.from(text)
      expect(stream(whole).join('')).toBe(whole.toString('utf8'))
    }),
  )
})

test('no piece of valid text has a replacement character', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme', maxLength: 30 }), (text) => {
      fc.pre(!text.includes('\ufffd'))
      for (const piece of stream(Buffer.from(text))) expect(piece).not.toContain('\ufffd')
    }),
  )
})

/** All that is given out when `text` is pushed in pieces that end at `cuts`. */
function matched(stops: readonly string[], pieces: readonly string[]): string {
  const matcher = new StopMatcher(stops)
  return pieces.map((piece) => matcher.push(piece)).join('') + matcher.flush()
}

test('text up to the stop string that is complete first is given out', () => {
  fc.assert(
    fc.property(
      fc.array(fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 4 }), { maxLength: 3 }),
      fc.array(fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 5 }), { maxLength: 8 }),
      (stops, pieces) => {
        const text = pieces.join('')
        let expected = text
        for (let end = 1; end <= text.length; end++) {
          const longest = stops
            .filter((stop) => stop !== '' && text.slice(0, end).endsWith(stop))
            .sort((a, b) => b.length - a.length)[0]
          if (longest !== undefined) {
            expected = text.slice(0, end - longest.length)
            break
          }
        }
        expect(matched(stops, pieces)).toBe(expected)
      },
    ),
    { numRuns: 1000 },
  )
})

test('text that may become a stop string is held back until it cannot', () => {
  const matcher = new StopMatcher(['\n\n'])
  expect(matcher.push('one\n')).toBe('one')
  expect(matcher.push('two')).toBe('\ntwo')
  expect(matcher.push('\n')).toBe('')
  expect(matcher.push('\nthree')).toBe('')
  expect(matcher.stopped).toBe(true)
  expect(matcher.push('four') + matcher.flush()).toBe('')
})

test('without stop strings nothing is held back', () => {
  const matcher = new StopMatcher([''])
  expect(matcher.push('text')).toBe('text')
  expect(matcher.flush()).toBe('')
  expect(matcher.stopped).toBe(false)
})
