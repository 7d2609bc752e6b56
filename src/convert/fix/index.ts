/** What is done inside the guest, on overlays over the finished copies. */
export { fixingPossible } from './possible.ts'
export { guestSteps } from './steps.ts'
