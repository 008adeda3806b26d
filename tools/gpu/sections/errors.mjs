/** What happens when a kernel touches what it must not; on the fake driver also what happens when calls fail. */
import { isAboutErrors, runSentences } from '../program.mjs'

export const run = (place) =>
  runSentences(
    place,
    (sentence) => isAboutErrors(sentence) || (place.fake && sentence.startsWith('fake:')),
  )
