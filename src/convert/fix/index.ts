/** What is done inside the guest, on overlays over the finished copies. */
export { guestSteps } from './steps.ts'
