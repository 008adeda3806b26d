/** Every kind of memory: shared between two processes, on one GPU and between two, written by the other, compared. */
import { isAboutErrors, runSentences } from '../program.mjs'

export const run = (place) =>
  runSentences(
    place,
    (sentence) =>
      !sentence.startsWith('fake:') && !sentence.includes('digest') && !isAboutErrors(sentence),
  )
