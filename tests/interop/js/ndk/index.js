// What @nostr-dev-kit/sync imports of its peer, and reconciling never uses: the whole of it is 100 MB.
export class NDKRelaySet {}
export const NDKSubscriptionCacheUsage = {};
export function fetchRelayInformation() {
  throw new Error("no relay is asked here");
}
