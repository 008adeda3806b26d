/** Digests of GPU memory against the processor's. */
import { isAboutErrors, runSentences } from '../program.mjs'

export const run = (place) =>
  runSentences(
    place,
    (sentence) =>
      !sentence.startsWith('fake:') && sentence.includes('digest') && !isAboutErrors(sentence),
  )
